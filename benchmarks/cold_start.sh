#!/bin/bash
# The cold-start benchmark on a machine with a GPU: cold_start.json, then cold_start_14b.json. Options are those of
# cold_start.py; a run with options does not go on to 14B.
set -uo pipefail
. "$(dirname "$0")/../tests/gpu/env.sh"
results=${OUT:-benchmarks/results}
"$PYTHON" benchmarks/cold_start.py -o "$results/cold_start.json" "$@"
code=$?
[ $# -gt 0 ] && exit $code
"$PYTHON" benchmarks/cold_start.py --model qwen3-14b --modes eager --repeats 1 --torch-repeats 1 \
    -o "$results/cold_start_14b.json" && exit $code
