"""Products of few rows with small matrices, whose weights are there before the rows are.

A program owns some columns and a span of K, few enough for its registers: it loads all of its
weights before it waits for the kernel before it. So memory is read while other kernels run that
need little of it. How a row is summed depends on the matrix alone, as in `stream.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from parse_runtime.kernels.cuda.chain import OPTIONS, opaque, release, wait
from parse_runtime.kernels.cuda.early import append, hold, rows_of
from parse_runtime.kernels.cuda.norm import CHUNK, NARROW, norm_scales, normed_row
from parse_runtime.kernels.cuda.swiglu import activate
from parse_runtime.kernels.cuda.unite import FEW, Partial, united
from parse_runtime.kernels.quantized import Weight, split

DEPTH, COLUMNS = CHUNK, 64
"""Of a tile: 16 columns a warp, as an instruction takes with eight rows."""
MOST_TILES = 4
"""Tiles that the registers of a program hold. Of gates and values, twice as many of half the size.
"""
PROGRAMS, MOST_PROGRAMS = 64, 264
"""Programs that keep a Hopper GPU's 132 multiprocessors busy (benchmarks/results/parse_fused.json),
and that they hold at a time."""
ROWS, SHARE = 8, 32
"""Rows that are multiplied at a time, and those that a program multiplies one after the other."""


@dataclass(frozen=True)
class Holding:
    """Spans of K, tiles of a span, columns of a tile."""

    spans: int
    tiles: int
    columns: int


def holding(weight: Weight, gated: bool = False) -> Holding | None:
    """None where programs cannot hold a matrix [N, K]; of gates and values K is not split."""
    values, scale = split(weight)
    n, k = values.shape
    if scale is not None or values.dtype.itemsize != 2 or k % DEPTH or values.stride(1) != 1:
        return None
    half = 2 if gated else 1
    columns, most, tiles = COLUMNS // half, MOST_TILES * half, k // DEPTH
    spans = [s for s in range(1, tiles + 1) if tiles % s == 0 and tiles // s <= most]
    if gated:
        spans = [s for s in spans if s == 1]
    blocks = triton.cdiv(n, columns)
    busy = [s for s in spans if blocks * s >= PROGRAMS]
    chosen = busy[0] if busy else max(spans, default=MOST_PROGRAMS + 1)
    if blocks * chosen > MOST_PROGRAMS:
        return None
    return Holding(chosen, tiles // chosen, columns)


@opaque
def held_product(
    x: Tensor, weight: Weight, bias: Tensor | None, gated: bool = False, gelu: bool = False,
    how: Holding | None = None,
) -> Tensor | None:  # fmt: skip
    """Parts [S, T, N] of x [T, K] times weight transposed; if gated, [1, T, N / 2] of x's dtype.

    None where the weight cannot be held, as of the functions below.
    """
    how = how or holding(weight, gated)
    if how is None:
        return None
    values, _ = split(weight)
    count, n = x.shape[0], values.shape[0]
    if x.stride(1) != 1:
        x = x.contiguous()
    out = _result(how, count, n, x.dtype, x.device, gated)
    _held_rows[triton.cdiv(count, SHARE), triton.cdiv(n, how.columns), how.spans](
        x, values, bias, out, count, n, x.stride(0), values.stride(0),
        ROWS=ROWS, COLUMNS=how.columns, DEPTH=DEPTH, TILES=how.tiles,
        GATED=gated, GELU=gelu, num_warps=4, num_stages=1, **OPTIONS,
    )  # fmt: skip
    return out


@opaque
def normed_product(
    x: Tensor, residual: Tensor | None, norm: Tensor, eps: float, offset: float, weight: Weight,
    bias: Tensor | None, gated: bool = False, gelu: bool = False, how: Holding | None = None,
) -> tuple[Tensor, Tensor] | None:  # fmt: skip
    """`held_product` of one row that `add_rms_norm` normalizes, and the sum that it normalizes."""
    how = how or holding(weight, gated)
    if how is None or split(weight)[0].shape[1] > NARROW:
        return None
    parts = x.contiguous() if x.dim() == 3 else x.contiguous()[None]
    values, _ = split(weight)
    n, width = values.shape
    total = torch.empty(1, width, dtype=norm.dtype, device=x.device)
    out = _result(how, 1, n, norm.dtype, x.device, gated)
    _held_normed[1, triton.cdiv(n, how.columns), how.spans](
        parts, residual, norm, total, values, bias, out, n, values.stride(0), eps, offset,
        PARTS=parts.shape[0], SPANS=how.spans,
        ROWS=ROWS, COLUMNS=how.columns, DEPTH=DEPTH, TILES=how.tiles,
        GATED=gated, GELU=gelu, num_warps=4, num_stages=1, **OPTIONS,
    )  # fmt: skip
    return out, total


@opaque
def united_product(partial: Partial, weight: Weight, how: Holding | None = None) -> Tensor | None:
    """`held_product` of one row whose spans of attention are not united yet, if they are few."""
    how = how or holding(weight)
    count, _, spans, head_dim = partial.sums.shape
    if how is None or count > 1 or spans > FEW:
        return None
    values, _ = split(weight)
    n = values.shape[0]
    out = _result(how, 1, n, partial.dtype, values.device, False)
    _held_united[1, triton.cdiv(n, how.columns), how.spans](
        partial.sums, partial.tops, partial.totals, *partial.seen, values, out, n,
        values.stride(0), HEAD_DIM=head_dim, SPAN=partial.span, SPANS=spans,
        ROWS=ROWS, COLUMNS=how.columns, DEPTH=DEPTH, TILES=how.tiles,
        num_warps=4, num_stages=1, **OPTIONS,
    )  # fmt: skip
    return out


def _result(
    how: Holding, count: int, n: int, dtype: torch.dtype, device: torch.device, gated: bool
) -> Tensor:
    if gated:
        return torch.empty(1, count, n // 2, dtype=dtype, device=device)
    return torch.empty(how.spans, count, n, dtype=torch.float32, device=device)


# Values of a count would choose other machine code, and so perhaps other bits.
@triton.jit(do_not_specialize=["count"])
def _held_rows(
    x, weight, bias, out, count, n, x_stride, w_stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, TILES: tl.constexpr,
    GATED: tl.constexpr, GELU: tl.constexpr,
):  # fmt: skip
    release()
    held = hold_part(weight, n, w_stride, COLUMNS, DEPTH, TILES, GATED)
    wait()
    x += tl.program_id(2) * TILES * DEPTH
    for first in tl.range(tl.program_id(0) * ROWS, count, tl.num_programs(0) * ROWS):
        row = first + tl.arange(0, ROWS)
        x_row = x + row.to(tl.int64)[:, None] * x_stride
        rows = rows_of(x_row, (row < count)[:, None], 0, DEPTH, TILES)
        total = product(rows, held, TILES)
        finish(total, bias, out, row, count, n, COLUMNS, GATED, GELU)


@triton.jit
def _held_normed(
    parts, residual, norm, entered, weight, bias, out, n, w_stride, eps, offset,
    PARTS: tl.constexpr, SPANS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, TILES: tl.constexpr,
    GATED: tl.constexpr, GELU: tl.constexpr,
):  # fmt: skip
    release()
    held = hold_part(weight, n, w_stride, COLUMNS, DEPTH, TILES, GATED)
    scales = norm_scales(norm, offset, DEPTH, TILES * SPANS)
    wait()
    xs, ys = normed_row(
        parts, residual, scales, entered, eps, DEPTH * TILES * SPANS, PARTS, DEPTH, TILES * SPANS
    )
    span = tl.program_id(2)
    if (tl.program_id(1) == 0) & (span == 0):
        for chunk in tl.static_range(TILES * SPANS):
            tl.store(entered + chunk * DEPTH + tl.arange(0, DEPTH), xs[chunk])
    tiles = ()
    for tile in tl.static_range(TILES):
        own = ys[tile]
        for other in tl.static_range(1, SPANS):
            own = tl.where(span == other, ys[other * TILES + tile], own)
        tiles = append(tiles, own)
    row = tl.arange(0, ROWS)
    total = product(only_row(tiles, row, TILES), held, TILES)
    finish(total, bias, out, row, 1, n, COLUMNS, GATED, GELU)


@triton.jit(do_not_specialize=["tops", "totals", "keys"])
def _held_united(
    sums, tops, totals, cuts, starts, ancestors, lows, keys, weight, out, n, w_stride,
    HEAD_DIM: tl.constexpr, SPAN: tl.constexpr, SPANS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    release()
    held = hold_part(weight, n, w_stride, COLUMNS, DEPTH, TILES, False)
    wait()
    tiles = ()
    for tile in tl.static_range(TILES):
        at = (tl.program_id(2) * TILES + tile) * DEPTH + tl.arange(0, DEPTH)
        x = united(
            sums, tops, totals, at // HEAD_DIM, at % HEAD_DIM, 0, cuts, starts, ancestors, lows,
            keys, HEAD_DIM, SPAN, SPANS,
        )  # fmt: skip
        tiles = append(tiles, x.to(weight.dtype.element_ty))
    row = tl.arange(0, ROWS)
    total = product(only_row(tiles, row, TILES), held, TILES)
    finish(total, None, out, row, 1, n, COLUMNS, False, False)


@triton.jit
def only_row(tiles, row, TILES: tl.constexpr):
    """Tiles of rows that are zero but for the first."""
    rows = ()
    for tile in tl.static_range(TILES):
        rows = append(rows, tl.where((row == 0)[:, None], tiles[tile][None, :], 0.0))
    return rows


@triton.jit
def hold_part(
    weight, n, w_stride, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, TILES: tl.constexpr,
    GATED: tl.constexpr,
):  # fmt: skip
    """A program's tiles of a weight [n, k]. If gated, gates and values are columns in turn."""
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    # Columns past the end read the last one.
    column = tl.minimum(column, n - 1)
    if GATED:
        column = column // 2 + column % 2 * (n // 2)
    weight += column.to(tl.int64)[:, None] * w_stride + tl.program_id(2) * TILES * DEPTH
    return hold(weight, 0, DEPTH, TILES)


@triton.jit
def product(rows, held, TILES: tl.constexpr):
    """[rows, columns] of tiles of rows and of a weight.

    Each tile is a product of its own: one after the other they would wait for each other. Columns
    come first, as an instruction takes 16 of these and only eight rows.
    """
    total = tl.dot(held[0], rows[0].T, input_precision="ieee")
    for tile in tl.static_range(1, TILES):
        total = tl.fma(tl.dot(held[tile], rows[tile].T, input_precision="ieee"), 1.0, total)
    return total.T


@triton.jit
def finish(
    total, bias, out, row, count, n,
    COLUMNS: tl.constexpr, GATED: tl.constexpr, GELU: tl.constexpr,
):  # fmt: skip
    """Store a program's part."""
    column, span = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS), tl.program_id(2)
    there = (row < count)[:, None]
    if GATED:
        gate, up = tl.split(total.reshape(total.shape[0], COLUMNS // 2, 2))
        column = tl.program_id(1) * (COLUMNS // 2) + tl.arange(0, COLUMNS // 2)
        out += row.to(tl.int64)[:, None] * (n // 2) + column[None, :]
        tl.store(out, activate(gate, GELU) * up, there & (column < n // 2)[None, :])
    else:
        if bias is not None and span == 0:
            total += tl.load(bias + tl.minimum(column, n - 1)).to(tl.float32)[None, :]
        out += (span * count + row).to(tl.int64)[:, None] * n + column[None, :]
        tl.store(out, total, there & (column < n)[None, :])
