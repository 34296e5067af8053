#!/bin/bash
# All GPU tests; their reports as JSON in $OUT, where that is set.
set -uo pipefail
. "$(dirname "$0")/env.sh"
timeout 560 "$PYTHON" -m pytest -q -p no:cacheprovider tests/gpu "$@"
