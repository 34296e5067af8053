#!/bin/bash
# The cold-start benchmark on a machine with a GPU: cold_start.json and cold_start_14b.json.
set -uo pipefail
. "$(dirname "$0")/../tests/gpu/env.sh"
results=${OUT:-benchmarks/results}
"$PYTHON" benchmarks/cold_start.py -o "$results/cold_start.json" "$@" &&
    "$PYTHON" benchmarks/cold_start.py --model qwen3-14b --modes eager --repeats 1 --torch-repeats 1 \
        -o "$results/cold_start_14b.json"
