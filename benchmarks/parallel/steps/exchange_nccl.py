"""Times NCCL's all-reduce inside CUDA graphs of torch. Arguments: devices, KiB at most."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.parallel.steps.sizes import COUNT, LAUNCHES, TRIES, WIDTH, sizes


def rank(number: int, devices: list[int], largest: int, folder: str) -> None:
    torch.cuda.set_device(devices[number])
    dist.init_process_group(
        "nccl", init_method=f"file://{folder}/meeting", rank=number, world_size=len(devices)
    )
    found = {}
    for size in sizes(largest):
        x = torch.zeros(size // 2 // WIDTH, WIDTH, dtype=torch.bfloat16, device="cuda")
        for _ in range(3):
            dist.all_reduce(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(COUNT):
                dist.all_reduce(x)
        times = []
        for _ in range(TRIES):
            dist.barrier()
            torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(LAUNCHES):
                graph.replay()
            torch.cuda.synchronize()
            times.append((time.perf_counter() - began) / LAUNCHES / COUNT)
        found[str(size)] = median(times[1:]) * 1e6
        del graph
    if not number:
        Path(folder, "found.json").write_text(json.dumps({"us": found}))
    dist.destroy_process_group()


if __name__ == "__main__":
    own = [int(one) for one in sys.argv[1].split(",")]
    with tempfile.TemporaryDirectory() as name:
        mp.spawn(rank, (own, int(sys.argv[2]) << 10, name), nprocs=len(own))
        print(Path(name, "found.json").read_text())
