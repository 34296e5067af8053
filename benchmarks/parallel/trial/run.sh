#!/bin/bash
# Variants of kernels of four ranks, on four GPUs: alone first, then together. Output under $OUT.
OUT=${OUT:-/tmp/trial}; mkdir -p "$OUT"
D='o=32/128/1/6/6/224;down=32/128/1/6/6/224'
R='gate=32/64/1/8/10;qkv=32/128/5/4/4'
alone() { CUDA_VISIBLE_DEVICES=$1 timeout 75 $PYTHON -m benchmarks.parallel.trial.alone "" "${@:2}" >"$OUT/alone.$1.jsonl" 2>"$OUT/alone.$1.err" & }
alone 0 "sent" "sent;$D" "sent;$D;united" "sent;$D;$R" "sent;$D;$R;united;span=128" "sent;o=64/128/1/6/5/255;down=64/128/1/6/5/255" "sent;$D;$R;o=32/64/1/8/12/224"
alone 1 "gate=64/128/1/5/3" "gate=32/64/1/8/10" "gate=32/128/1/6/4" "gate=64/128/1/5/5/255" "gate=64/64/1/8/6" "gate=32/64/1/6/6"
alone 2 "qkv=64/128/8/3/3" "qkv=32/128/5/4/4" "qkv=64/128/8/3/4/255" "qkv=64/64/10/4/6" "qkv=32/64/7/6/8" "qkv=64/128/4/6/5/255"
alone 3 "span=128" "span=64" "span=512" "down=64/128/4/3/3" "down=64/128/2/6/3" "o=64/64/2/6/6"
wait
cat "$OUT"/alone.*.jsonl
capture() { CUDA_VISIBLE_DEVICES=$1 FOUNDRY_TRIAL="$4" SPAWNED=0 timeout 90 $PYTHON benchmarks/parallel/steps/decode_capture.py qwen3-14b $2 "$OUT/$3.fdy" "" >"$OUT/capture.$3" 2>&1 & }
capture 0 4 base ""; capture 1 4 sent "sent"; capture 2 4 sent32 "sent;$D"; capture 0 4 united "sent;$D;$R;united"; capture 3 4 all "sent;$D;$R;span=128"; capture 3 1 one ""
wait
together() {
    echo "together $1 on $2"
    SPAWNED=$(date +%s.%N) timeout 60 $PYTHON benchmarks/parallel/steps/decode_time.py "$OUT/$1.fdy" $2 2>"$OUT/time.$1.err" | tee -a "$OUT/together.$1.jsonl" || tail -5 "$OUT/time.$1.err"
}
for v in base sent sent32 all united; do together $v 0,1,2,3; done
together one 0
for v in base all; do
    timeout 60 $PYTHON benchmarks/parallel/steps/decode_profile.py "$OUT/$v.fdy" 0,1,2,3 >"$OUT/profile.$v.json" 2>"$OUT/profile.$v.err" || tail -5 "$OUT/profile.$v.err"
done
g++ -O2 -o "$OUT/floor" benchmarks/start/steps/floor.cpp -ldl
for again in 1 2 3; do
    for gpus in 0,1 0,1,2,3; do
        began=$(date +%s%N); pids=
        for gpu in ${gpus//,/ }; do CUDA_VISIBLE_DEVICES=$gpu "$OUT/floor" >/dev/null & pids="$pids $!"; done
        wait $pids; echo "bare $gpus $((($(date +%s%N) - began) / 1000000)) ms"
    done
    together all 0,1,2,3
done
rm -f "$OUT"/*.fdy
