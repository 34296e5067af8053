#!/bin/bash
# Variants of kernels of four ranks, together; then checks between GPUs, large exchanges, profiles.
OUT=${OUT:-/tmp/trial}; mkdir -p "$OUT"
G='gate=64/128/1/5/5/255'
declare -A V=([apart]=apart [sent]= [gate]="$G" [gate3]="gate=64/128/1/5/3" [span]="$G;span=128" [deep]="$G;o=64/64/1/8/6;down=64/128/1/8/3" [hold]="$G;o=64/128/1/6/5/255;down=64/128/1/6/5/255;qkv=64/128/4/6/5/255" [old]="apart;$G;o=64/64/2/6/6")
ORDER="sent gate span hold deep gate3 old apart"
capture() { CUDA_VISIBLE_DEVICES=$1 FOUNDRY_TRIAL="$3" SPAWNED=0 timeout 100 $PYTHON benchmarks/parallel/steps/decode_capture.py qwen3-14b $4 "$OUT/$2.fdy" "" >"$OUT/capture.$2" 2>&1 & }
gpu=0
for v in $ORDER; do capture $((gpu++ % 4)) $v "${V[$v]}" 4; done
wait
tail -qn 2 "$OUT"/capture.*
together() {
    echo "together $1: ${V[$1]}"
    SPAWNED=$(date +%s.%N) timeout 60 $PYTHON benchmarks/parallel/steps/decode_time.py "$OUT/$1.fdy" $2 2>"$OUT/time.$1.err" || tail -5 "$OUT/time.$1.err"
}
for v in $ORDER; do together $v 0,1,2,3; done
timeout 60 $PYTHON benchmarks/parallel/steps/decode_profile.py "$OUT/span.fdy" 0,1,2,3 >"$OUT/profile.span.json" 2>"$OUT/profile.err" || tail -5 "$OUT/profile.err"
cut -c 1-2000 "$OUT/profile.span.json"
for t in "" "regs=64" "pieces;regs=64" "pieces;regs=64;block=512" "pieces;regs=48;block=128"; do
    FOUNDRY_TRIAL="$t" SPAWNED=0 timeout 60 $PYTHON benchmarks/parallel/steps/exchange_capture.py "$OUT/x.fdy" 4 65536 >/dev/null 2>"$OUT/x.err"
    echo "exchange $t"; timeout 60 $PYTHON benchmarks/parallel/steps/exchange_ours.py "$OUT/x.fdy" 0,1,2,3 2>>"$OUT/x.err" || tail -5 "$OUT/x.err"
done
rm -f "$OUT"/*.fdy
