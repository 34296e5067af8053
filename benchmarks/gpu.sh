#!/bin/bash
# The benchmarks that need a GPU, one after the other, into benchmarks/results; benchmarks/README.md says what each takes.
# By name for some of them: benchmarks/gpu.sh otfs decode. A part that fails or outlives its limit stops none of the
# others; all together end within BENCH_SECONDS, where set. Results and logs go to $OUT/bench-gpu.tgz, where OUT is set.
set -uo pipefail
results=benchmarks/results logs=build/bench-gpu
parts=("$@")
[ $# -gt 0 ] || parts=(cold otfs decode host arith arith_sweep gain peers large linear attention)

# Sets limit, in seconds, and options: a benchmark's name and options.
# shellcheck disable=SC2054
choose() {
    case $1 in
        cold) limit=330 options=(cold-start) ;;
        cold14b) limit=400 options=(cold-start --model qwen3-14b --modes eager --repeats 1 --torch-repeats 1
            --output $results/cold_start_14b.json) ;;
        relocate) limit=300 options=(relocate) ;;
        foreign) limit=300 options=(foreign) ;;
        engine) limit=500 options=(engine) ;;
        token) limit=300 options=(engine --parts token) ;;
        serve) limit=590 options=(serve --models qwen3-0.6b) ;;
        serve14b) limit=590 options=(serve --models qwen3-14b) ;;
        share) limit=590 options=(rank-share) ;;
        ranks) limit=500 options=(tensor-parallel) ;;
        pair) limit=400 options=(arith-ranks --target cuda) ;;
        eight) limit=590 options=(eight-gpus) ;;
        degree) limit=300 options=(serve-degree) ;;
        serve_ranks) limit=590 options=(serve --tp 2 --models qwen3-14b --parts throughput --concurrent "1,16,64") ;;
        instantiate) limit=75 options=(instantiate) ;;
        otfs) limit=300 options=(otfs --parts frames) ;;
        waveform) limit=330 options=(otfs --parts waveform) ;;
        equalizer) limit=300 options=(otfs-equalizer) ;;
        mailbox) limit=300 options=(otfs-mailbox) ;;
        links) limit=200 options=(otfs-links) ;;
        sweep) limit=200 options=(otfs-sweep) ;;
        triton) limit=60 options=(otfs-triton) ;;
        decode) limit=100 options=(parse-geometry --parts decode,verify,evidence) ;;
        mixed) limit=180 options=(parse-geometry --parts mixed) ;;
        host) limit=60 options=(parse-geometry --parts host) ;;
        gain) limit=200 options=(parse-geometry --parts gain --batches 1,8,32) ;;
        peers) limit=240 options=(parse-geometry --parts peers) ;;
        long) limit=150 options=(parse-geometry --parts long) ;;
        large) limit=150 options=(parse-geometry --parts moe,32b) ;;
        linear) limit=120 options=(parse-linear) ;;
        fp8) limit=200 options=(parse-fp8) ;;
        attention) limit=150 options=(parse-attention) ;;
        arith) limit=250 options=(arith --target cuda --concurrent 1,4,16 --problems 128,128,256
            --calibration 200 --parts methods,verdict_max_abs_diff,verdicts) ;;
        arith_sweep) limit=130 options=(arith --target cuda --concurrent 16 --problems 256
            --parts all_rejected,sweep) ;;
        *) echo "gpu.sh: no part $1; benchmarks/README.md lists them" >&2; exit 2 ;;
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
        timeout -k 10 $((left < limit ? left : limit)) "$PYTHON" -m benchmarks "${options[@]}" >"$logs/$name.log" 2>&1
        status=$?
        tail -n 6 "$logs/$name.log" | cut -c 1-400
        case $status in
            0) outcome="done" ;;
            124 | 137) outcome="stopped: out of time" failed=1 ;;
            *) outcome="failed" failed=1 ;;
        esac
    fi
    printf '%-12s %4d s  %s\n' "$name" $((SECONDS - began)) "$outcome" >>$logs/parts.txt
    "$PYTHON" -m benchmarks parse-merge >/dev/null || failed=1
    # After every part: what was measured comes back where a later one outlives the machine.
    if [ -n "${OUT:-}" ]; then
        find $results $logs -type f -newer $logs/begun -print0 |
            tar -czf "$OUT/bench-gpu.tgz" --null -T - || failed=1
    fi
done
"$PYTHON" -m benchmarks summary --measured || failed=1
cat $logs/parts.txt
exit $failed
