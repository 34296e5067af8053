"""Prints, as JSON, how far held and fused Triton kernels, interpreted on the CPU, are from others.

Run with TRITON_INTERPRET=1. `near` are distances from the references, `differing` counts of values
that differ from those of the kernels that a fused one replaces. Float32 only.
"""

from __future__ import annotations

import json
from itertools import product
from unittest.mock import patch

import torch
from torch import Tensor

from parse_runtime.kernels import norm, swiglu
from parse_runtime.kernels.attend_step import attend_step
from parse_runtime.kernels.cuda import attend_step as cuda_attend
from parse_runtime.kernels.cuda import held, unite
from parse_runtime.kernels.cuda import norm as cuda_norm
from parse_runtime.kernels.cuda import rotate as cuda_rotate
from parse_runtime.kernels.cuda.stream import stream_parts
from parse_runtime.kernels.cuda.swiglu import stream_swiglu
from parse_runtime.kernels.cuda.tiles import Holding, Tiles
from parse_runtime.kernels.rotate import Rotation
from parse_runtime.signature.sizes import BLOCK, blocks_of

NEAR: dict[str, float] = {}
DIFFERING: dict[str, int] = {}


def near(name: str, found: Tensor, expected: Tensor) -> None:
    NEAR[name] = float((found.double() - expected.double()).norm() / expected.double().norm())


def same(name: str, found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    DIFFERING[name] = int((found != expected).sum())


def products() -> None:
    """A row by the kernel that holds a weight, and among others by the one that streams it.

    Values of a tile of K are whole numbers times a power of two, so that its product is exact: what
    differs is the order in which tiles and spans are added. Some columns no program has all of.
    """
    for n, k, gated, spans, joins in (
        (100, 1024, False, 8, (1, 2, 4)), (100, 1024, False, 4, (1, 4)),
        (100, 768, False, 3, (1,)), (200, 768, True, 1, (1,)),
    ):  # fmt: skip
        w = torch.randint(-4, 5, (n, k)).float()
        scales = 2.0 ** torch.randint(0, 20, (k // 128,))
        x = torch.randint(-4, 5, (40, k)) * scales.repeat_interleave(128)
        tiles = Tiles(64, 128, spans, 2, apart=True)
        for bias in (None,) if gated else (None, torch.randn(n)):
            if gated:
                whole = added(stream_swiglu(x, w, True, tiles)[None])
                expected = swiglu.swiglu(x.double() @ w.double().T, True)
            else:
                whole = added(stream_parts(x, w, bias, tiles))
                expected = x.double() @ w.double().T + (0 if bias is None else bias)
            name = f"{n}x{k} {spans} {bias is None}"
            near(name, whole, expected)
            for joined, row in product(joins, (0, 8, 33)):
                how = Holding(spans // joined, k // 128 // spans * joined, 32, joined)
                one = held.held_product(x[row : row + 1], w, bias, gated, True, how)
                same(f"{name} {joined} {row}", added(one), whole[row : row + 1])


def added(parts: Tensor) -> Tensor:
    """Their sum, as the kernel finds it that reads them next."""
    return cuda_norm.add_rms_norm(parts, None, torch.ones(parts.shape[2]), 1e-6)[1]


def norms() -> None:
    """A row that is normalized by its product, or before it."""
    weight, w = torch.randn(384), torch.randn(64, 384) * 384**-0.5
    for x in (torch.randn(1, 384), torch.randn(3, 1, 384)):
        for residual in (None, torch.randn(1, 384)):
            given = x, residual, weight, 1e-6, 0.5
            y, total = cuda_norm.add_rms_norm(*given)
            name = f"norm {x.dim()} {residual is not None}"
            for found, expected in zip((y, total), norm.add_rms_norm(*given), strict=True):
                near(f"{name} {found is y}", found, expected)
            for gated in (False, True):
                how = Holding(1, 3, 32, 1) if gated else Holding(3, 1, 64, 1)
                fused, entered = held.normed_product(*given, w, None, gated, False, how)
                same(f"{name} sum", entered, total)
                expected = held.held_product(y, w, None, gated, False, how)
                same(f"{name} product {gated}", fused, expected)


def attention() -> None:
    """One row of each slot, rotated by attention itself; one slot, united by the product."""
    heads, kv_heads, head_dim, rows, keys = 6, 2, 64, 200, 160
    for batch, norms_too, windowed in ((1, False, False), (1, True, True), (3, True, False)):
        name = f"attention {batch} {norms_too}"
        qkv = torch.randn(2, batch, (heads + 2 * kv_heads) * head_dim)
        start, slots = torch.tensor([150, 20, 77])[:batch], torch.randperm(3)[:batch]
        head_norms = (torch.randn(head_dim), torch.randn(head_dim)) if norms_too else None
        rotation = Rotation(
            torch.randint(0, 3000, (batch,)), 10000 ** -torch.rand(head_dim // 2),
            start, head_norms, 1e-6, 0.5,
        )  # fmt: skip
        # As a layer's part of a cache, with slots' blocks in random order among others.
        each = blocks_of(rows)
        tables = torch.randperm(3 * each + 2, dtype=torch.int32)[: 3 * each].view(3, each)
        values = torch.randn(3 * each + 2, 2, 2, BLOCK, kv_heads, head_dim)
        caches = [values.clone()[:, 1].transpose(0, 1) for _ in range(3)]
        lows = start - 40 if windowed else None
        numbers = tables, slots, start, start, torch.ones_like(start), keys, 1
        q = rotation.store(qkv, caches[0], tables, slots)
        expected = attend_step(q, caches[0], *numbers, lows=lows)
        q = cuda_rotate.rotate_store(
            qkv, *rotation[:2], caches[1], tables, slots, start, head_norms, 1e-6, 0.5
        )
        for span in (16, 32, 256):
            tiles = cuda_attend.Tiles(span, 16, 16, 4, 2, 7)
            apart = cuda_attend.partial(q, caches[1], *numbers, tiles, lows)
            at_once = cuda_attend.rotated_partial(
                qkv, rotation, caches[2], *numbers, lows, tiles=tiles
            )
            x = unite.unite(apart)
            near(f"{name} {span}", x, expected)
            same(f"{name} {span}", unite.unite(at_once), x)
            with patch.object(unite, "PROGRAMS", 0):
                same(f"{name} {span} together", unite.unite(apart), x)
            if batch == 1 and span > 16:
                w = torch.randn(40, heads * head_dim)
                how = Holding(3, 1, 64, 1)
                fused = held.united_product(at_once, w, how)
                expected_product = held.held_product(x, w, None, how=how)
                same(f"{name} {span} product", fused, expected_product)
        near(f"{name} cache", caches[1], caches[0])
        same(f"{name} cache", caches[2], caches[1])


if __name__ == "__main__":
    torch.manual_seed(0)
    products()
    norms()
    attention()
    print(json.dumps({"near": NEAR, "differing": DIFFERING}))
