"""Products of one row with small matrices, whose weights are there before the row is.

A program owns some columns and a span of K, few enough for its registers: it loads all of its
weights before it waits for the kernel before it. So memory is read while other kernels run that
need little of it. The row has the bits that `stream.py` and `swiglu.py` give it among others.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from parse_runtime.kernels.cuda.chain import OPTIONS, opaque, release, wait
from parse_runtime.kernels.cuda.early import append, hold, rows_of
from parse_runtime.kernels.cuda.norm import NARROW, norm_scales, normed_row
from parse_runtime.kernels.cuda.stream import joined
from parse_runtime.kernels.cuda.swiglu import activate
from parse_runtime.kernels.cuda.tiles import HELD_DEPTH, Holding, holding
from parse_runtime.kernels.cuda.unite import FEW, Partial, united
from parse_runtime.kernels.quantized import Weight, split

ROWS = 8
"""Of a tensor core's tile: the one row, and zeros."""


@opaque
def held_product(
    x: Tensor, weight: Weight, bias: Tensor | None, gated: bool = False, gelu: bool = False,
    how: Holding | None = None,
) -> Tensor | None:  # fmt: skip
    """Parts [S, 1, N] of x [1, K] times weight transposed; if gated, [1, 1, N / 2] of x's dtype.

    None where the weight cannot be held, as of the functions below.
    """
    how = how or holding(weight, gated)
    if how is None:
        return None
    values, _ = split(weight)
    n = values.shape[0]
    out = _result(how, n, x.dtype, x.device, gated)
    _held_row[1, triton.cdiv(n, how.columns), how.spans](
        x.contiguous(), values, bias, out, n, values.stride(0),
        ROWS=ROWS, COLUMNS=how.columns, DEPTH=HELD_DEPTH, TILES=how.tiles, JOINED=how.joined,
        GATED=gated, GELU=gelu, num_warps=4, num_stages=1, **OPTIONS,
    )  # fmt: skip
    return out


@opaque
def normed_product(
    x: Tensor, residual: Tensor | None, norm: Tensor, eps: float, offset: float, weight: Weight,
    bias: Tensor | None, gated: bool = False, gelu: bool = False, how: Holding | None = None,
) -> tuple[Tensor, Tensor] | None:  # fmt: skip
    """`held_product` of a row that `add_rms_norm` normalizes, and the sum that it normalizes."""
    how = how or holding(weight, gated)
    if how is None or split(weight)[0].shape[1] > NARROW:
        return None
    parts = x.contiguous() if x.dim() == 3 else x.contiguous()[None]
    values, _ = split(weight)
    n, width = values.shape
    total = torch.empty(1, width, dtype=norm.dtype, device=x.device)
    out = _result(how, n, norm.dtype, x.device, gated)
    _held_normed[1, triton.cdiv(n, how.columns), how.spans](
        parts, residual, norm, total, values, bias, out, n, values.stride(0), eps, offset,
        PARTS=parts.shape[0], SPANS=how.spans,
        ROWS=ROWS, COLUMNS=how.columns, DEPTH=HELD_DEPTH, TILES=how.tiles, JOINED=how.joined,
        GATED=gated, GELU=gelu, num_warps=4, num_stages=1, **OPTIONS,
    )  # fmt: skip
    return out, total


@opaque
def united_product(partial: Partial, weight: Weight, how: Holding | None = None) -> Tensor | None:
    """`held_product` of a row whose spans of attention are not united yet, if they are few."""
    how = how or holding(weight)
    count, _, spans, head_dim = partial.sums.shape
    if how is None or count > 1 or spans > FEW:
        return None
    values, _ = split(weight)
    n = values.shape[0]
    out = _result(how, n, partial.dtype, values.device, False)
    _held_united[1, triton.cdiv(n, how.columns), how.spans](
        partial.sums, partial.tops, partial.totals, *partial.seen, values, out, n,
        values.stride(0), HEAD_DIM=head_dim, SPAN=partial.span, SPANS=spans,
        ROWS=ROWS, COLUMNS=how.columns, DEPTH=HELD_DEPTH, TILES=how.tiles, JOINED=how.joined,
        num_warps=4, num_stages=1, **OPTIONS,
    )  # fmt: skip
    return out


def _result(how: Holding, n: int, dtype: torch.dtype, device: torch.device, gated: bool) -> Tensor:
    if gated:
        return torch.empty(1, 1, n // 2, dtype=dtype, device=device)
    return torch.empty(how.spans, 1, n, dtype=torch.float32, device=device)


@triton.jit
def _held_row(
    x, weight, bias, out, n, w_stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, TILES: tl.constexpr,
    JOINED: tl.constexpr, GATED: tl.constexpr, GELU: tl.constexpr,
):  # fmt: skip
    release()
    held = hold_part(weight, n, w_stride, COLUMNS, DEPTH, TILES, GATED)
    wait()
    x += tl.program_id(2) * TILES * DEPTH
    row = tl.arange(0, ROWS)[:, None]
    rows = rows_of(x + row * 0, row == 0, 0, DEPTH, TILES)
    total = product(rows, held, bias, n, COLUMNS, TILES, JOINED)
    finish(total, out, n, COLUMNS, GATED, GELU)


@triton.jit
def _held_normed(
    parts, residual, norm, entered, weight, bias, out, n, w_stride, eps, offset,
    PARTS: tl.constexpr, SPANS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, TILES: tl.constexpr,
    JOINED: tl.constexpr, GATED: tl.constexpr, GELU: tl.constexpr,
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
    rows = only_row(tiles, ROWS, TILES)
    total = product(rows, held, bias, n, COLUMNS, TILES, JOINED)
    finish(total, out, n, COLUMNS, GATED, GELU)


@triton.jit(do_not_specialize=["tops", "totals", "keys"])
def _held_united(
    sums, tops, totals, cuts, starts, ancestors, lows, keys, weight, out, n, w_stride,
    HEAD_DIM: tl.constexpr, SPAN: tl.constexpr, SPANS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, TILES: tl.constexpr,
    JOINED: tl.constexpr,
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
    rows = only_row(tiles, ROWS, TILES)
    total = product(rows, held, None, n, COLUMNS, TILES, JOINED)
    finish(total, out, n, COLUMNS, False, False)


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
def only_row(tiles, ROWS: tl.constexpr, TILES: tl.constexpr):
    """Tiles of ROWS rows that are zero but for the first."""
    first = (tl.arange(0, ROWS) == 0)[:, None]
    rows = ()
    for tile in tl.static_range(TILES):
        rows = append(rows, tl.where(first, tiles[tile][None, :], 0.0))
    return rows


@triton.jit
def product(
    rows, held, bias, n, COLUMNS: tl.constexpr, TILES: tl.constexpr, JOINED: tl.constexpr
):  # fmt: skip
    """[rows, columns] of tiles of rows and of a weight, of as many streamed spans as are JOINED.

    Each tile is a product of its own: one after the other they would wait for each other. Columns
    come first, as an instruction takes 16 of these and only eight rows.
    """
    each: tl.constexpr = TILES // JOINED
    sums = ()
    for span in tl.static_range(JOINED):
        total = tl.zeros((COLUMNS, rows[0].shape[0]), tl.float32)
        for tile in tl.static_range(span * each, span * each + each):
            total = tl.fma(tl.dot(held[tile], rows[tile].T, input_precision="ieee"), 1.0, total)
        if bias is not None and span == 0 and tl.program_id(2) == 0:
            column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
            total += tl.load(bias + tl.minimum(column, n - 1)).to(tl.float32)[:, None]
        sums = append(sums, total)
    return joined(sums, JOINED).T


@triton.jit
def finish(total, out, n, COLUMNS: tl.constexpr, GATED: tl.constexpr, GELU: tl.constexpr):
    """Store a program's part, of the first row."""
    column, span = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS), tl.program_id(2)
    first = (tl.arange(0, total.shape[0]) == 0)[:, None]
    if GATED:
        gate, up = tl.split(total.reshape(total.shape[0], COLUMNS // 2, 2))
        column = tl.program_id(1) * (COLUMNS // 2) + tl.arange(0, COLUMNS // 2)
        place = tl.broadcast_to(out + column[None, :], gate.shape)
        tl.store(place, activate(gate, GELU) * up, first & (column < n // 2)[None, :])
    else:
        place = tl.broadcast_to(out + (span * n + column)[None, :], total.shape)
        tl.store(place, total, first & (column < n)[None, :])
