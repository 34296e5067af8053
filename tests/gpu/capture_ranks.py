"""Exchanges between ranks as graphs: sizes, kernels, many in a row. Arguments: bundle, ranks."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch

from foundryc import Recorder
from parse_runtime.kernels.cuda.reduce import (
    all_reduce,
    gather_add_rms_norm,
    reduce_add_rms_norm,
)
from parse_runtime.kernels.cuda.shares import send_product

ROWS, WIDTH, MANY = 80, 1024, 31
UNEVEN = 774
"""Numbers of a row whose words are no multiple of four."""
path, world = Path(sys.argv[1]), int(sys.argv[2])
with (
    torch.inference_mode(),
    Recorder("cuda", workload="ranks", settings={"rows": ROWS, "width": WIDTH}) as r,
):
    # Less than the whole input: it takes several exchanges.
    ranks = r.ranks(world, 32 * WIDTH * 2)
    x = r.register("x", torch.zeros(ROWS, WIDTH), role="input")
    residual = r.register("residual", torch.zeros(ROWS, WIDTH), role="input")
    weight = r.register("weight", torch.zeros(WIDTH), role="input")
    same = r.register("same", torch.eye(WIDTH), role="constant")
    passes = []
    for kind in (torch.float32, torch.bfloat16):
        name = str(kind).removeprefix("torch.")

        def share(count: int, kind: torch.dtype = kind) -> torch.Tensor:
            """What this rank has: rank r adds r."""
            return (x[:count] + ranks.words[:1]).to(kind)

        def norm(count: int, kind: torch.dtype = kind) -> dict[str, torch.Tensor]:
            parts = torch.stack([share(count, kind).float() / 2] * 2)
            given = residual[:count].to(kind), weight.to(kind)
            normed, total = reduce_add_rms_norm(parts, *given, 1e-6, 0.0, ranks)
            return {"normed": normed.float(), "total": total.float()}

        def sent(count: int, kind: torch.dtype = kind) -> dict[str, torch.Tensor]:
            """As `norm`, where a product has sent the shares."""
            under_way = send_product(share(count, kind), same.to(kind), ranks)
            given = residual[:count].to(kind), weight.to(kind)
            normed, total = gather_add_rms_norm(under_way, *given, 1e-6, 0.0)
            return {"normed": normed.float(), "total": total.float()}

        def chain(kind: torch.dtype = kind) -> dict[str, torch.Tensor]:
            """As `many`, by products that send."""
            rows, eye, ones = share(3, kind), same.to(kind), torch.ones_like(weight).to(kind)
            for _ in range(MANY):
                under_way = send_product(rows, eye, ranks)
                _, total = gather_add_rms_norm(under_way, None, ones, 1e-6, 0.0)
                rows = (total / world).to(kind)
            return {"rows": rows.float()}

        def many(kind: torch.dtype = kind) -> dict[str, torch.Tensor]:
            """Each exchange has what the one before gave."""
            rows = share(3, kind)
            for _ in range(MANY):
                rows = (all_reduce(rows, ranks) / world).to(kind)
                rows = ranks.all_gather(rows).float().mean(0).to(kind)
            return {"rows": rows.float()}

        def gather(count: int, kind: torch.dtype = kind) -> dict[str, torch.Tensor]:
            return {"gathered": ranks.all_gather(share(count, kind)).float()}

        def reduce(count: int, kind: torch.dtype = kind) -> dict[str, torch.Tensor]:
            return {"sum": all_reduce(share(count, kind), ranks).float()}

        def uneven(kind: torch.dtype = kind) -> dict[str, torch.Tensor]:
            row = share(1, kind)[0, :UNEVEN].contiguous()
            gathered, total = ranks.all_gather(row), all_reduce(row, ranks)
            return {"gathered": gathered.float(), "sum": total.float()}

        passes.append(("uneven", {"dtype": name, "rows": 1}, uneven))
        for count in (1, 5, ROWS):
            key = {"dtype": name, "rows": count}
            passes.append(("gather", key, lambda count=count, own=gather: own(count)))
            passes.append(("reduce", key, lambda count=count, own=reduce: own(count)))
            passes.append(("norm", key, lambda count=count, own=norm: own(count)))
        for count in (1, 5):
            passes.append(("sent", {"dtype": name, "rows": count}, partial(sent, count)))
        passes.append(("chain", {"dtype": name, "rows": 3}, chain))
        passes.append(("many", {"dtype": name, "rows": 3}, many))
    with r.warm_up():
        for _, _, run in passes:
            run()
    for name, key, run in passes:
        with r.graph(name, **key) as graph:
            for output, tensor in run().items():
                graph.output(output, tensor)
    r.save(path)
