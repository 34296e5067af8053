"""Mixture of experts: pairs of a row and an expert are grouped by expert, on the device.

A block is up to ROWS pairs of one expert. How many blocks there are depends on the data, how many
are launched does not: those past the last find nothing to do. Only chosen experts are read.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from parse_runtime.kernels.activations import rounds_rows
from parse_runtime.kernels.cuda.block_scaled import quantize_rows
from parse_runtime.kernels.cuda.chain import OPTIONS, opaque, release, wait
from parse_runtime.kernels.cuda.routing import group, route
from parse_runtime.kernels.cuda.stream import (
    add_product,
    halves,
    load_rows,
    load_weight,
    scales,
    stream_parts,
)
from parse_runtime.kernels.quantized import Weight, split
from parse_runtime.kernels.rows import STREAMED_ROWS
from parse_runtime.kernels.streamed import streams


@dataclass(frozen=True)
class Tiles:
    """Pairs of a block; columns of gates (and as many of values), of the output; K of a tile."""

    rows: int
    gates: int
    columns: int
    depth: int
    stages: int
    warps: int = 4


def choose(count: int, fp8: bool = False, rows_too: bool = False) -> Tiles:
    """Few rows are bound by the weights' bandwidth, and are computed in one way for any count.

    `fp8`: weights are in FP8, and so converted (`_scaled` in `tiles.py`). `rows_too`: so are rows;
    all tiles then give the same bits.
    """
    if rows_too:
        return Tiles(32 if count <= 4 * STREAMED_ROWS else 64, 64, 128, 128, 3)
    if count > STREAMED_ROWS:
        return Tiles(64, 64, 128, 64, 3)
    if fp8:
        return Tiles(16, 32, 64, 128, 6 if count <= 16 else 3, warps=2)
    return Tiles(16, 32, 64, 128, 4)


@opaque
def experts(
    x: Tensor, router: Tensor, gate_up: Weight, down: Weight, top_k: int, normalize: bool,
    first: Tensor | None = None, tiles: Tiles | None = None,
) -> Tensor:  # fmt: skip
    """`parse_runtime.kernels.experts.experts`."""
    count, hidden = x.shape
    rounds = rounds_rows(gate_up), rounds_rows(down)
    (gates, gate_scale), (outputs, down_scale) = split(gate_up), split(down)
    number, _, width = outputs.shape
    pairs = count * top_k
    tiles = tiles or choose(count, gate_scale is not None, all(rounds))
    x, gates, outputs = x.contiguous(), gates.contiguous(), outputs.contiguous()
    # As `parse_runtime.kernels.linear.linear_parts`, which is above these kernels.
    scores = stream_parts(x, router) if streams(x) else F.linear(x, router)[None]
    weights, chosen = route(scores, x.dtype, top_k, normalize, number, first)
    order, blocks = group(chosen, number, tiles.rows)
    gated = torch.empty(pairs, width, dtype=x.dtype, device=x.device)
    common = {"ROWS": tiles.rows, "num_warps": tiles.warps, "num_stages": tiles.stages, **OPTIONS}
    rows, row_scale = _rows(x, rounds[0])
    depth = min(tiles.depth, max(16, triton.next_power_of_2(hidden)))
    _gate_up[blocks.shape[1], triton.cdiv(width, tiles.gates)](
        rows, row_scale, gates, gate_scale, gated, order, blocks, count, width, hidden, top_k,
        COLUMNS=tiles.gates, DEPTH=depth, EVEN=hidden % depth == 0, STAGES=tiles.stages, **common,
    )  # fmt: skip
    each = torch.empty(pairs, hidden, dtype=torch.float32, device=x.device)
    rows, row_scale = _rows(gated, rounds[1])
    depth = min(tiles.depth, max(16, triton.next_power_of_2(width)))
    _down[blocks.shape[1], triton.cdiv(hidden, tiles.columns)](
        rows, row_scale, outputs, down_scale, each, order, blocks, pairs, hidden, width,
        COLUMNS=tiles.columns, DEPTH=depth, EVEN=width % depth == 0, STAGES=tiles.stages, **common,
    )  # fmt: skip
    out = torch.empty_like(x)
    _weigh[count, triton.cdiv(hidden, 1024)](
        each, weights, out, hidden, TOP=top_k, BLOCK=1024, **OPTIONS
    )
    return out


def _rows(x: Tensor, fp8: bool) -> tuple[Tensor, Tensor | None]:
    """Rows, and their scales where they are to be in FP8."""
    if not fp8:
        return x, None
    rows = quantize_rows(x)
    return rows.values, rows.scale


@triton.jit(do_not_specialize=["count"])
def _gate_up(
    x, x_scale, weight, scale, out, order, blocks, count, n, k, top_k, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, DEPTH: tl.constexpr, EVEN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    release()
    wait()
    expert, row, there = _block(blocks, ROWS)
    # One tile has COLUMNS rows of the gates' matrix, then as many of the values'.
    both = tl.arange(0, 2 * COLUMNS)
    if scale is not None:
        matrix = expert * 2 + both // COLUMNS
        scale = scales(scale, matrix, n, tl.program_id(1) * COLUMNS, k)[:, None]
    if expert >= 0:
        token = tl.load(order + row, there, other=0) // top_k
        a_scale = None if x_scale is None else x_scale + token
        within = tl.minimum(tl.program_id(1) * COLUMNS + both % COLUMNS, n - 1)
        w_row = weight + ((expert * 2 + both // COLUMNS) * n + within)[:, None] * k
        x_row = x + token.to(tl.int64)[:, None] * k
        depth = tl.arange(0, DEPTH)
        total = tl.zeros((2 * COLUMNS, ROWS), tl.float32)
        for tile in tl.range(0, tl.cdiv(k, DEPTH), num_stages=STAGES):
            at = tile * DEPTH + depth[None, :]
            w = load_weight(w_row, at, k, EVEN)
            a = load_rows(x_row, at, there[:, None], k, EVEN)
            total = add_product(total, w, a, scale, tile * DEPTH, a_scale, count)
        gate, up = halves(total)
        column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        to = out + row.to(tl.int64)[:, None] * n + column[None, :]
        tl.store(to, gate * tl.sigmoid(gate) * up, there[:, None] & (column < n)[None, :])


@triton.jit(do_not_specialize=["count"])
def _down(
    x, x_scale, weight, scale, out, order, blocks, count, n, k, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, DEPTH: tl.constexpr, EVEN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    release()
    wait()
    expert, row, there = _block(blocks, ROWS)
    if scale is not None:
        scale = scales(scale, expert, n, tl.program_id(1) * COLUMNS, k)
    if expert >= 0:
        pair = tl.load(order + row, there, other=0)
        a_scale = None if x_scale is None else x_scale + tl.where(there, row, 0)
        column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        w_row = weight + (expert * n + tl.minimum(column, n - 1).to(tl.int64)[:, None]) * k
        x_row = x + row.to(tl.int64)[:, None] * k
        depth = tl.arange(0, DEPTH)
        total = tl.zeros((COLUMNS, ROWS), tl.float32)
        for tile in tl.range(0, tl.cdiv(k, DEPTH), num_stages=STAGES):
            at = tile * DEPTH + depth[None, :]
            w = load_weight(w_row, at, k, EVEN)
            a = load_rows(x_row, at, there[:, None], k, EVEN)
            total = add_product(total, w, a, scale, tile * DEPTH, a_scale, count)
        to = out + pair.to(tl.int64)[:, None] * n + column[None, :]
        tl.store(to, total.T, there[:, None] & (column < n)[None, :])


@triton.jit
def _block(blocks, ROWS: tl.constexpr):
    """Expert of this program's block (-1 for none), its rows in the order, and which exist."""
    block, count = tl.program_id(0), tl.num_programs(0)
    first = tl.load(blocks + count + block)
    row = first + tl.arange(0, ROWS)
    there = row < tl.load(blocks + 2 * count + block)
    return tl.load(blocks + block).to(tl.int64), row, there


@triton.jit
def _weigh(each, weights, out, n, TOP: tl.constexpr, BLOCK: tl.constexpr):
    """out[t] = sum over j of weights[t, j] * each[t, j], in ascending order.

    What weighs nothing is not read: of experts that other ranks have, nothing was computed.
    """
    release()
    wait()
    row, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for j in tl.static_range(TOP):
        pair = row * TOP + j
        weight = tl.load(weights + pair)
        there = tl.where(at < n, weight, 0.0) != 0
        total += weight * tl.load(each + pair * n + at, there, other=0.0)
    tl.store(out + row * n + at, total, at < n)
