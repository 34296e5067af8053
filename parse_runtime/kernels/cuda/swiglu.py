"""The gated MLP's activation: alone, and as the end of the product that makes gates and values."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from parse_runtime.kernels.cuda.chain import OPTIONS, opaque, release, wait
from parse_runtime.kernels.cuda.early import hold, rows_of
from parse_runtime.kernels.cuda.stream import (
    add_product,
    add_tile,
    halves,
    readable,
    scales,
)
from parse_runtime.kernels.cuda.tiles import Tiles, choose, tile_rows
from parse_runtime.kernels.quantized import Weight, split


@opaque
def swiglu(gate_up: Tensor, gelu: bool = False) -> Tensor:
    """`parse_runtime.kernels.swiglu.swiglu`."""
    count, width = gate_up.shape[0], gate_up.shape[1] // 2
    gate_up = gate_up.contiguous()
    out = torch.empty(count, width, dtype=gate_up.dtype, device=gate_up.device)
    _swiglu[count, triton.cdiv(width, 1024)](gate_up, out, width, GELU=gelu, BLOCK=1024, **OPTIONS)
    return out


@opaque
def stream_swiglu(
    x: Tensor, gate_up: Weight, gelu: bool = False, tiles: Tiles | None = None
) -> Tensor:
    """`parse_runtime.kernels.swiglu.linear_swiglu` for few rows."""
    values, scale = split(gate_up)
    count, n, k = x.shape[0], values.shape[0] // 2, values.shape[1]
    tiles = tiles or choose(values, x.dtype, count, gated=True)
    x = readable(x, tiles)
    out = torch.empty(count, n, dtype=x.dtype, device=x.device)
    rows = tile_rows(count)
    _stream_swiglu[triton.cdiv(count, rows), triton.cdiv(n, tiles.columns // 2)](
        x, values, scale, out, count, n, k, x.stride(0), values.stride(0),
        ROWS=rows, COLUMNS=tiles.columns // 2, DEPTH=tiles.depth, EVEN=k % tiles.depth == 0,
        STAGES=tiles.stages, EARLY=tiles.early, APART=tiles.apart, WORDS=tiles.words, GELU=gelu,
        **tiles.options, **OPTIONS,
    )  # fmt: skip
    return out


@triton.jit
def _swiglu(gate_up, out, width, GELU: tl.constexpr, BLOCK: tl.constexpr):
    release()
    wait()
    row, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    gate_up += row * 2 * width + at
    gate = tl.load(gate_up, at < width).to(tl.float32)
    up = tl.load(gate_up + width, at < width).to(tl.float32)
    tl.store(out + row * width + at, activate(gate, GELU) * up, at < width)


@triton.jit(do_not_specialize=["count"])
def _stream_swiglu(
    x, weight, scale, out, count, n, k, x_stride, w_stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, EVEN: tl.constexpr,
    STAGES: tl.constexpr, EARLY: tl.constexpr, APART: tl.constexpr, WORDS: tl.constexpr,
    GELU: tl.constexpr,
):  # fmt: skip
    release()
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    # One tile has COLUMNS rows of the gates' matrix, then as many of the values'.
    both = tl.arange(0, 2 * COLUMNS)
    within = tl.minimum(tl.program_id(1) * COLUMNS + both % COLUMNS, n - 1).to(tl.int64)
    w_row = weight + (both // COLUMNS * n.to(tl.int64) + within)[:, None] * w_stride
    last = tl.cdiv(k, DEPTH)
    held = hold(w_row, 0, DEPTH, EARLY)
    wait()
    if scale is not None:
        scale = scales(scale, both // COLUMNS, n, tl.program_id(1) * COLUMNS, k)[:, None]
    x_row = x + row.to(tl.int64)[:, None] * x_stride
    total = tl.zeros((2 * COLUMNS, ROWS), tl.float32)
    there = (row < count)[:, None]
    rows = rows_of(x_row, there, 0, DEPTH, EARLY)
    for tile in tl.static_range(EARLY):
        total = add_product(total, held[tile], rows[tile], scale, tile * DEPTH, APART=APART)
    for tile in tl.range(EARLY, last, num_stages=STAGES):
        total = add_tile(total, w_row, x_row, there, scale, tile, k, DEPTH, EVEN, APART, WORDS)
    gate, up = halves(total)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    out += row.to(tl.int64)[:, None] * n + column[None, :]
    tl.store(out, activate(gate, GELU) * up, there & (column < n)[None, :])


@triton.jit
def activate(gate, GELU: tl.constexpr):
    """SiLU, or GELU approximated by tanh: x / 2 * (1 + tanh(u)) is x * sigmoid(2u)."""
    if GELU:
        # u = sqrt(2 / pi) * (x + 0.044715 * x ** 3)
        return gate * tl.sigmoid(1.5957691216057308 * (gate + 0.044715 * gate * gate * gate))
    else:
        return gate * tl.sigmoid(gate)
