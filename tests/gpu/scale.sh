#!/bin/bash
# The decoder at 28 layers and 35 batch sizes: where the time of a materialization goes. Needs a GPU and torch.
set -uo pipefail
cd "$(dirname "$0")/../.."
if ls .whl/*.whl >/dev/null 2>&1; then
    python3 -m pip install -q --no-index --no-deps --no-cache-dir --upgrade --target /tmp/site .whl/*.whl
    export PYTHONPATH=/tmp/site
fi
export PYTHONPATH=$PWD:${PYTHONPATH:-}
cmake -S . -B build/gpu-tests >/dev/null && cmake --build build/gpu-tests -j 8 >/dev/null
work=$(mktemp -d)
python3 tests/gpu/capture_decoder.py "$work" 28 "1,2,4,$(seq -s, 8 8 256)"
for _ in 1 2 3; do python3 tests/gpu/replay_decoder.py "$work"; done
