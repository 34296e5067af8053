"""Times decode steps of one rank of four alone, by variant. Arguments: variants of trial.turn."""

from __future__ import annotations

import json
import sys
import time
from statistics import median

import torch

from benchmarks.parallel.steps.decode_sizes import START, sizes
from benchmarks.parse.models import CONFIGS, rank_shapes
from foundryc.ranks import Ranks
from parse_runtime.capture.passes import Passes
from parse_runtime.kernels import trial
from parse_runtime.models.shard import Shard

LAUNCHES, TRIES, LAYERS = 20, 7, 40
shard = Shard(CONFIGS["qwen3-14b"], 4)
own = sizes("qwen3-14b")
words = torch.tensor([0, 1, 0, 8000], dtype=torch.int32, device="cuda")
capacity = 64 * 5120 * 2
slabs = torch.zeros(4 * 2 * 4 * capacity, dtype=torch.uint8, device="cuda")
generator = torch.Generator("cuda").manual_seed(0)
weights = {}
for name, shape in rank_shapes(shard).items():
    made = torch.empty(shape, dtype=torch.bfloat16, device="cuda")
    weights[name] = made.fill_(1) if len(shape) == 1 else made.normal_(0, 0.02, generator=generator)


base: dict[str, torch.Tensor] = {}


def measure(variant: str) -> dict:
    trial.turn(variant)
    ranks = Ranks(4, words, slabs, capacity)
    passes = Passes(
        "target",
        shard.config,
        weights,
        own,
        lambda n, t, r, grows=None: t.to("cuda"),
        run_ahead=True,
        ranks=ranks,
    )
    filler = torch.Generator("cuda").manual_seed(1)
    passes.cache.values.normal_(0, 1, generator=filler)
    found, first = {}, None
    with torch.inference_mode():
        for signature, run in passes.graphs():
            batch = signature.key["batch"]
            inputs = {n: passes._read(signature, n) for n in signature.inputs}
            inputs["slots"].copy_(torch.arange(batch))

            def place():
                plan = torch.full((5, batch), START, dtype=torch.int64)
                plan[0] = 1
                inputs["plan"].copy_(plan)

            place()
            ranks.begin()
            run()
            ranks.settle()
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            stream = torch.cuda.Stream()
            with torch.cuda.graph(graph, stream=stream):
                ranks.begin()
                outputs = run()
                ranks.settle()
            times = []
            for _ in range(TRIES):
                place()
                torch.cuda.synchronize()
                began = time.perf_counter()
                for _ in range(LAUNCHES):
                    graph.replay()
                torch.cuda.synchronize()
                times.append((time.perf_counter() - began) / LAUNCHES * 1e3)
            found[f"ms {batch}"] = round(median(times[1:]), 4)
            place()
            graph.replay()
            torch.cuda.synchronize()
            logits = outputs["logits"].float()[0].clone()
            first = logits if first is None else first
            found[f"same row {batch}"] = bool(torch.equal(first, logits))
            del graph
    base.setdefault("logits", first)
    found["off"] = float((first - base["logits"]).norm() / base["logits"].norm())
    found["error"] = int(words[2])
    return found


for variant in sys.argv[1:]:
    began = time.time()
    try:
        said = measure(variant)
    except Exception as error:
        said = {"failed": repr(error)[:300]}
    print(
        json.dumps({"variant": variant} | said | {"s": round(time.time() - began, 1)}), flush=True
    )
