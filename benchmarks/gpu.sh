#!/bin/bash
# The benchmarks that need a GPU, one after the other, into benchmarks/results; benchmarks/README.md says what each takes.
# By name for some of them: benchmarks/gpu.sh otfs decode. A part that fails or outlives its limit stops none of the
# others; all together end within BENCH_SECONDS, where set. Results and logs go to $OUT/bench-gpu.tgz, where OUT is set.
set -uo pipefail
results=benchmarks/results logs=build/bench-gpu
parts=("$@")
[ $# -gt 0 ] || parts=(cold otfs decode arith arith_sweep gain peers large linear attention)

# Sets limit, in seconds, and command, Python's arguments.
# shellcheck disable=SC2054,SC2206
choose() {
    case $1 in
        cold) limit=330 command=(benchmarks/cold_start.py -o $results/cold_start.json) ;;
        cold14b) limit=400 command=(benchmarks/cold_start.py --model qwen3-14b --modes eager --repeats 1
            --torch-repeats 1 -o $results/cold_start_14b.json) ;;
        instantiate) limit=75 command=(benchmarks/cold/instantiate.py -o $results/instantiate.json) ;;
        otfs) limit=300 command=(benchmarks/otfs.py --output $results/otfs.json) ;;
        sweep) limit=200 command=(-m benchmarks.otfs.sweep --output $results/otfs_sweep.json) ;;
        triton) limit=60 command=(-m benchmarks.otfs.triton_products --output $results/otfs_triton.json) ;;
        decode) limit=100 command=(-m benchmarks.parse_geometry --parts decode,verify) ;;
        gain) limit=200 command=(-m benchmarks.parse_geometry --parts gain --batches 1,8,32) ;;
        peers) limit=240 command=(-m benchmarks.parse_geometry --parts peers) ;;
        large) limit=150 command=(-m benchmarks.parse_geometry --parts moe,32b) ;;
        linear) limit=120 command=(-m benchmarks.parse.linear $results/parse_linear.json) ;;
        attention) limit=150 command=(benchmarks/parse/attention.py $results/parse_kernels.json) ;;
        arith) limit=240 command=(-m benchmarks.arith.evaluate --target cuda --concurrent 1,16 --problems 256
            --parts methods,verdict_max_abs_diff,verdicts --out $results/parse_arith.json) ;;
        arith_sweep) limit=130 command=(-m benchmarks.arith.evaluate --target cuda --concurrent 16 --problems 256
            --parts all_rejected,sweep --out $results/parse_arith.json) ;;
        *) echo "no benchmark $1" >&2; exit 2 ;;
    esac
}

for name in "${parts[@]}"; do choose "$name"; done
# shellcheck source=tests/gpu/env.sh
. "$(dirname "$0")/../tests/gpu/env.sh"
rm -rf $logs && mkdir -p $logs && touch $logs/begun || exit
failed=0
for name in "${parts[@]}"; do
    choose "$name"
    left=$((${BENCH_SECONDS:-100000} - SECONDS)) began=$SECONDS
    if [ $left -lt 20 ]; then
        outcome="not begun: no time left" failed=1
    else
        echo "== $name: at most $limit s; $logs/$name.log ends:"
        # Not through a pipe: what a stopped benchmark leaves running would hold it open.
        timeout -k 10 $((left < limit ? left : limit)) "$PYTHON" "${command[@]}" >"$logs/$name.log" 2>&1
        status=$?
        tail -n 6 "$logs/$name.log" | cut -c 1-400
        case $status in
            0) outcome="done" ;;
            124 | 137) outcome="stopped: out of time" failed=1 ;;
            *) outcome="failed" failed=1 ;;
        esac
    fi
    printf '%-12s %4d s  %s\n' "$name" $((SECONDS - began)) "$outcome" >>$logs/parts.txt
    "$PYTHON" -m benchmarks.parse.merge >/dev/null || failed=1
    # After every part: what was measured comes back where a later one outlives the machine.
    if [ -n "${OUT:-}" ]; then
        find $results $logs -type f -newer $logs/begun -print0 |
            tar -czf "$OUT/bench-gpu.tgz" --null -T - || failed=1
    fi
done
"$PYTHON" -m benchmarks.summary || failed=1
cat $logs/parts.txt
exit $failed
