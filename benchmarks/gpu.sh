#!/bin/bash
# Every benchmark that needs a GPU, one after the other, into benchmarks/results ($OUT where set); a failure stops none of
# the others. By name for some of them: benchmarks/gpu.sh otfs geometry
set -uo pipefail
. "$(dirname "$0")/../tests/gpu/env.sh"
results=${OUT:-benchmarks/results}
failed=0
for name in ${@:-cold otfs geometry linear attention arith}; do
    case $name in
        cold) "$PYTHON" benchmarks/cold_start.py -o "$results/cold_start.json" ;;
        cold14b) "$PYTHON" benchmarks/cold_start.py --model qwen3-14b --modes eager --repeats 1 \
            --torch-repeats 1 -o "$results/cold_start_14b.json" ;;
        otfs) "$PYTHON" benchmarks/otfs.py --output "$results/otfs.json" ;;
        geometry) "$PYTHON" -m benchmarks.parse_geometry --output "$results/parse_geometry.json" ;;
        linear) "$PYTHON" -m benchmarks.parse.linear "$results/parse_linear.json" ;;
        attention) "$PYTHON" benchmarks/parse/attention.py "$results/parse_kernels.json" ;;
        arith) "$PYTHON" -m benchmarks.arith.evaluate --target cuda --concurrent 1,16 --problems 256 \
            --out "$results/parse_arith.json" && "$PYTHON" -m benchmarks.parse.merge ;;
        *) echo "no benchmark $name" >&2; exit 2 ;;
    esac || failed=1
done
exit $failed
