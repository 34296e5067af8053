"""Captures all-reduces of several sizes, COUNT a graph. Arguments: bundle, ranks, KiB at most."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from benchmarks.parallel.steps.sizes import COUNT, WIDTH, sizes
from foundryc.recorder import Recorder
from parse_runtime.kernels.cuda.reduce import all_reduce, reduce_add_rms_norm
from parse_runtime.kernels.rows import STREAMED_ROWS

path, world, largest = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) << 10
recorder = Recorder("cuda", "exchanges", {})
ranks = recorder.ranks(world, largest)
rows = largest // 2 // WIDTH
x = recorder.register("x", torch.zeros(rows, WIDTH, dtype=torch.bfloat16), "state")
weight = recorder.register("weight", torch.zeros(WIDTH, dtype=torch.bfloat16), "state")


def reduce(count: int) -> torch.Tensor:
    for _ in range(COUNT):
        found = all_reduce(x[:count], ranks)
    return found


def norm(count: int) -> torch.Tensor:
    for _ in range(COUNT):
        found, _ = reduce_add_rms_norm(x[:count], x[:count], weight, 1e-6, 0.0, ranks)
    return found


passes = [("reduce", size, reduce) for size in sizes(largest)]
passes += [("norm", s, norm) for s in sizes(largest) if s // 2 // WIDTH <= STREAMED_ROWS]
with torch.inference_mode():
    with recorder.warm_up():
        for _, size, run in passes:
            run(size // 2 // WIDTH)
    for name, size, run in passes:
        with recorder.graph(name, bytes=size) as graph:
            graph.output("sum", run(size // 2 // WIDTH))
    recorder.save(path)
