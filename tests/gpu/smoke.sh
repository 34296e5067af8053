#!/bin/bash
# Builds the native cores, captures, and replays in a fresh process. Results as JSON in $OUT; needs a GPU and torch.
# Packages that the machine lacks may lie as wheels in .whl/.
set -uo pipefail
cd "$(dirname "$0")/../.."
OUT=${OUT:-$(mktemp -d)}
work=$(mktemp -d)
if ls .whl/*.whl >/dev/null 2>&1; then
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .whl/*.whl
    export PYTHONPATH=/tmp/site
fi
export PYTHONPATH=$PWD:${PYTHONPATH:-} PYTHONUNBUFFERED=1
rm -rf /tmp/foundry-build
cmake -S . -B /tmp/foundry-build >"$OUT/cmake.log" 2>&1 && cmake --build /tmp/foundry-build -j 8 >>"$OUT/cmake.log" 2>&1 \
    || { tail -20 "$OUT/cmake.log"; exit 1; }
timeout 200 python3 tests/gpu/smoke_capture.py "$work" 2>&1 | tee "$OUT/capture.log"
timeout 100 python3 tests/gpu/smoke_replay.py "$work" 2>&1 | tee "$OUT/replay.log"
timeout 250 python3 tests/gpu/smoke_kinds.py "$work" 2>&1 | tee "$OUT/kinds.log"
timeout 100 python3 tests/gpu/smoke_kinds_replay.py "$work" 2>&1 | tee "$OUT/kinds_replay.log"
cp "$work"/*.json "$OUT"/
