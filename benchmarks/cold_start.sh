#!/bin/bash
# The cold-start benchmark on a machine with a GPU. Options are those of cold_start.py.
set -uo pipefail
. "$(dirname "$0")/../tests/gpu/env.sh"
exec "$PYTHON" benchmarks/cold_start.py -o "${OUT:-benchmarks/results}/cold_start.json" "$@"
