"""What one rank of torch with NCCL needs until it has captured every graph.

Arguments: model, rank, ranks, a file at which they meet. Each rank sees its own GPU.
"""

from __future__ import annotations

import json
import os
import sys
import time

SPAWNED = float(os.environ["SPAWNED"])

from functools import partial  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

from benchmarks.start.steps import model  # noqa: E402


def summed(share: torch.Tensor) -> torch.Tensor:
    dist.all_reduce(share)
    return share


def side_by_side(run: Any, world: int) -> torch.Tensor:
    """Logits [B, vocab] of what each rank has of the vocabulary."""
    own = run()
    parts = torch.empty(world, *own.shape, device="cuda", dtype=own.dtype)
    dist.all_gather_into_tensor(parts.flatten(0, 1), own)
    return parts.transpose(0, 1).flatten(1)


def main(name: str, rank: int, world: int, meeting: str) -> None:
    imported = time.time()
    dist.init_process_group("nccl", init_method=f"file://{meeting}", rank=rank, world_size=world)
    c = model.share(model.GEOMETRY[name], world)
    weights = {
        key: torch.zeros(shape, dtype=torch.bfloat16, device="cuda")
        for key, shape in model.shapes(c).items()
    }
    # Of the output table each has a part of the vocabulary; embeddings are whole everywhere.
    table = "embed" if c.tied else "head"
    weights["head"] = weights[table][: c.vocab // world]
    layer = partial(model.layer, summed=summed)
    passes, _ = model.decode_passes(
        name, weights, lambda _, tensor, role: tensor.to("cuda"), lambda _: layer, world
    )
    graphs, pool = [], torch.cuda.graph_pool_handle()
    with torch.inference_mode():
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _, run in passes:
                side_by_side(run, world)
        torch.cuda.synchronize()
        for _, run in passes:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, stream=stream):
                outputs = side_by_side(run, world)
            graphs.append((graph, outputs))
    torch.cuda.synchronize()
    ready = time.time()
    report = {
        "import_ms": (imported - SPAWNED) * 1e3, "all_ready_ms": (ready - SPAWNED) * 1e3,
        "graphs": len(graphs),
    }  # fmt: skip
    print(json.dumps(report), flush=True)
    os._exit(0)  # freeing graphs that hold collectives may wait for the other rank


main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
