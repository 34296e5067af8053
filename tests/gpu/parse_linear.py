"""Prints, as JSON, how far the linear, fused and expert kernels are from float64."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from foundryc.ranks import Ranks
from parse_runtime.kernels.cuda.shares import send_product
from parse_runtime.kernels.experts import experts
from parse_runtime.kernels.linear import linear, linear_parts
from parse_runtime.kernels.norm import add_rms_norm
from parse_runtime.kernels.rotate import rotate_store
from parse_runtime.kernels.rows import STREAMED_ROWS
from parse_runtime.kernels.streamed import of_ranks
from parse_runtime.kernels.swiglu import linear_swiglu, swiglu
from parse_runtime.signature.sizes import BLOCK

MATRICES = [(5120, 5120), (5120, 1280), (1792, 5120), (100, 96), (1040, 520)]
COUNTS = (1, 5, 16, 17, 64, 65)


def random(*shape: int, dtype: torch.dtype = torch.bfloat16, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape, device="cuda") * scale).to(dtype)


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found.double().cpu() - expected.double().cpu()).norm() / expected.double().norm())


class Worst(dict[str, float]):
    """Largest relative errors by function and type."""

    def note(self, name: str, dtype: torch.dtype, found: Tensor, expected: Tensor) -> None:
        name = f"{name} {dtype}"
        self[name] = max(self.get(name, 0.0), distance(found, expected))


def same_when_replayed(layer: Callable[[], Sequence[Tensor]], *inputs: Tensor) -> bool:
    """Whether replays of a CUDA graph give the bits of direct launches, whatever the inputs are."""
    layer()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = layer()
    for _ in range(3):
        for x in inputs:
            x.copy_(random(*x.shape))
        graph.replay()
        if not all(torch.equal(one, other) for one, other in zip(out, layer(), strict=True)):
            return False
    return True


def shares(x: Tensor, w: Tensor) -> Tensor:
    """The sum over ranks, of which one takes part, of products that a kernel sends."""
    weight = torch.ones(w.shape[0], dtype=x.dtype, device="cuda")
    sent = send_product(x, w, alone()) if x.shape[0] <= STREAMED_ROWS else None
    own = linear_parts(x, w) if sent is None else sent
    return add_rms_norm(own, None, weight, 1e-6, ranks=alone())[1]


@cache
def alone() -> Ranks:
    words = torch.tensor([0, 1, 0, 1000], dtype=torch.int32, device="cuda")
    capacity = 64 * 5120 * 4
    return Ranks(2, words, torch.zeros(8 * capacity, dtype=torch.uint8, device="cuda"), capacity)


def products() -> Worst:
    """Over matrices and numbers of rows."""
    worst = Worst()
    note = worst.note
    for dtype in (torch.float32, torch.bfloat16):
        for n, k in MATRICES if dtype == torch.bfloat16 else MATRICES[3:]:
            w, bias = random(n, k, dtype=dtype, scale=k**-0.5), random(n, dtype=dtype)
            gates = random(2 * n, k, dtype=dtype, scale=k**-0.5)
            for count in COUNTS:
                x = random(count, k, dtype=dtype)
                exact = x.double() @ w.double().T
                note("linear", dtype, linear(x, w), exact)
                note("shares", dtype, shares(x, w), exact)
                note("bias", dtype, linear(x, w, bias), exact + bias.double())
                note("parts", dtype, linear_parts(x, w, bias).sum(0), exact + bias.double())
                gate, up = (x.double() @ gates.double().T).chunk(2, dim=-1)
                gated = gate * torch.sigmoid(gate) * up
                note("linear_swiglu", dtype, linear_swiglu(x, gates), gated)
                note("swiglu", dtype, swiglu(torch.cat((gate, up), 1).to(dtype)), gated)
                gated = F.gelu(gate, approximate="tanh") * up
                note("linear_geglu", dtype, linear_swiglu(x, gates, True), gated)
    return worst


def row_variations() -> int:
    """Rows whose bits change with the number of rows beside them.

    Of ranks, programs hold weights for the fewer rows alone.
    """
    changed = 0
    for n, k in MATRICES:
        w, gates = random(n, k, scale=k**-0.5), random(2 * n, k, scale=k**-0.5)
        x = random(64, k)
        for function in (
            lambda x, w=w: linear(x, w),
            lambda x, w=w: linear_parts(x, w).sum(0),
            lambda x, w=w: shares(x, w),
            lambda x, gates=gates: linear_swiglu(x, gates),
        ):
            whole = function(x)
            for count in range(1, 17):
                changed += int((function(x[:count]) != whole[:count]).any(1).sum())
                changed += int(
                    (function(x[40 : 40 + count]) != whole[40 : 40 + count]).any(1).sum()
                )
    return changed


def wide(x: Tensor) -> Tensor:
    return x.cpu().double()


def fused() -> dict[str, float]:
    """Relative errors to the torch references in float64 (tables of angles stay float32)."""
    found = {}
    for count in (1, 200):
        for spans in (0, 4):
            size = (spans, count) if spans else (count,)
            dtype = torch.float32 if spans else torch.bfloat16
            x, residual = random(*size, 5120, dtype=dtype), random(count, 5120)
            weight = random(5120)
            # Kernels may read weights before those ahead of them have ended.
            torch.cuda.synchronize()
            for before in (residual, None):
                # An offset, as Gemma's norms have, in half of the cases.
                offset = 1.0 if spans else 0.0
                pair = add_rms_norm(x, before, weight, 1e-6, offset)
                exact = add_rms_norm(
                    wide(x), None if before is None else wide(before), wide(weight), 1e-6, offset
                )
                name = f"norm {count} {spans} {before is not None}"
                found[name] = max(distance(a, b) for a, b in zip(pair, exact, strict=True))
            for head_dim in (64, 80, 128):
                heads, kv_heads, blocks = 10, 2, 42
                qkv = random(*size, (heads + 2 * kv_heads) * head_dim, dtype=dtype)
                positions = torch.randint(0, 30000, (count,), device="cuda")
                frequencies = 1e6 ** -torch.rand(head_dim // 2, device="cuda")
                rows = torch.randperm(14 * BLOCK, device="cuda")[:count]
                slots = torch.tensor([1], device="cuda")
                tables = torch.randperm(blocks, device="cuda").int().view(3, 14)
                # As a layer's part of a cache: blocks are further apart than they are long.
                cache = random(blocks, 2, 2, BLOCK, kv_heads, head_dim)[:, 1].transpose(0, 1)
                for norms in (None, (random(head_dim), random(head_dim))):
                    expected = wide(cache)
                    q = rotate_store(
                        qkv, positions, frequencies, cache, tables, slots, rows, norms, 1e-6, offset
                    )
                    q64 = rotate_store(
                        wide(qkv), positions.cpu(), frequencies.cpu(), expected,
                        tables.cpu(), slots.cpu(), rows.cpu(),
                        norms and (wide(norms[0]), wide(norms[1])), 1e-6, offset,
                    )  # fmt: skip
                    name = f"rotate {count} {spans} {head_dim} {norms is not None}"
                    found[name] = max(distance(q, q64), distance(cache, expected))
    return found


def mixture() -> dict[str, float]:
    """Experts against float64; `varied` counts rows that change with the rows beside them."""
    found: dict[str, float] = {"varied": 0}
    for hidden, width, number, top_k in ((2048, 768, 128, 8), (96, 40, 6, 2)):
        router = random(number, hidden, scale=hidden**-0.5)
        gate_up = random(number, 2 * width, hidden, scale=hidden**-0.5)
        down = random(number, hidden, width, scale=width**-0.5)
        for count in (1, 4, 32, 512):
            x = random(count, hidden)
            for normalize in (True, False):
                y = experts(x, router, gate_up, down, top_k, normalize)
                name = f"{number} experts {count} {normalize}"
                found[name] = distance(y, mixture64(x, router, gate_up, down, top_k, normalize))
            if count == 32:
                for i in range(4):
                    row = experts(x[i : i + 1], router, gate_up, down, top_k, False)
                    found["varied"] += int((row[0] != y[i]).any())
    return found


def mixture64(
    x: Tensor, router: Tensor, gate_up: Tensor, down: Tensor, top_k: int, normalize: bool
) -> Tensor:
    """In float64, but for the scores: a router in bfloat16 decides who is chosen.

    Its scores are often equal: of such experts the lower is chosen.
    """
    ranked = linear(x, router).double().softmax(-1).sort(dim=-1, descending=True, stable=True)
    weights, chosen = ranked.values[:, :top_k], ranked.indices[:, :top_k]
    if normalize:
        weights = weights / weights.sum(-1, keepdim=True)
    out = torch.zeros(x.shape, dtype=torch.float64, device=x.device)
    for expert in range(router.shape[0]):
        row, place = torch.where(chosen == expert)
        gate, up = (x[row].double() @ gate_up[expert].double().T).chunk(2, dim=-1)
        y = (gate * torch.sigmoid(gate) * up) @ down[expert].double().T
        out.index_add_(0, row, y * weights[row, place][:, None])
    return out


def captured() -> bool:
    """A layer's chain of kernels, replayed from a CUDA graph on new inputs, gives the same bits."""
    w, gates, down = random(1024, 512), random(2048, 512), random(512, 1024)
    router, gate_up, expert_down = random(16, 512), random(16, 256, 512), random(16, 512, 128)
    norm, x = random(512), random(3, 512)

    def layer() -> list[Tensor]:
        parts, residual = linear_parts(linear_swiglu(x, gates), down), x
        y, total = add_rms_norm(parts, residual, norm, 1e-6)
        return [linear(experts(y, router, gate_up, expert_down, 4, True) + total, w)]

    return same_when_replayed(layer, x)


def main() -> None:
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    report = {
        "products": products(),
        "row_variations": row_variations(),
        "fused": fused(),
        "mixture": mixture(),
        "captured": captured(),
    }
    with of_ranks(True):
        report["products_of_ranks"] = products()
        report["row_variations_of_ranks"] = row_variations()
    print(json.dumps(report))


if __name__ == "__main__":
    main()
