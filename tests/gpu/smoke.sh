#!/bin/bash
# All GPU tests; their reports as JSON in $OUT. Packages that the machine lacks may lie as wheels in .whl/.
set -uo pipefail
cd "$(dirname "$0")/../.."
if ls .whl/*.whl >/dev/null 2>&1; then
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .whl/*.whl
    export PYTHONPATH=/tmp/site
fi
rm -rf build/gpu-tests
export PYTHONPATH=$PWD:${PYTHONPATH:-} PYTHONUNBUFFERED=1
timeout 500 python3 -m pytest -q -p no:cacheprovider tests/gpu "$@"
