"""Products of few rows with a weight matrix, bound by the memory that the weights come from.

A program owns some columns of the result and a span of K. What is computed is the transpose, weight
times rows: then the weights fill the larger side of a tensor core's tile, and the rows, a multiple
of 16, the smaller. Spans and the order of sums depend on the matrix alone, and the tensor cores sum
a row of a tile in one way whichever row it is: so a row's bits do not depend on the other rows. Of
a quantized weight a tile lies in one block: its scale is a factor of the tile's product, in
float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from parse_runtime.kernels.cuda.chain import OPTIONS, opaque, release, wait
from parse_runtime.kernels.cuda.early import append, hold, rows_of
from parse_runtime.kernels.cuda.tiles import Tiles, choose, tile_rows
from parse_runtime.kernels.cuda.words import words_product
from parse_runtime.kernels.quantized import BLOCK, Weight, split

_BLOCK = tl.constexpr(BLOCK)


@opaque
def stream(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """`parse_runtime.kernels.linear.linear` for few rows."""
    parts = _launch(x, weight, bias, None, x.dtype)
    if parts.shape[0] == 1:
        return parts[0]
    count, n = parts.shape[1:]
    out = torch.empty(count, n, dtype=x.dtype, device=x.device)
    _add[count, triton.cdiv(n, 1024)](parts, out, n, SPANS=parts.shape[0], BLOCK=1024, **OPTIONS)
    return out


@opaque
def stream_parts(
    x: Tensor, weight: Weight, bias: Tensor | None = None, tiles: Tiles | None = None
) -> Tensor:
    """`parse_runtime.kernels.linear.linear_parts` for few rows."""
    return _launch(x, weight, bias, tiles, torch.float32)


def _launch(
    x: Tensor, weight: Weight, bias: Tensor | None, tiles: Tiles | None, single: torch.dtype
) -> Tensor:
    """Parts [S, T, N]: float32, or `single` where there is one span."""
    values, scale = split(weight)
    count, (n, k) = x.shape[0], values.shape
    tiles = tiles or choose(values, x.dtype, count)
    x = readable(x, tiles)
    dtype = torch.float32 if tiles.spans > 1 else single
    parts = torch.empty(tiles.spans, count, n, dtype=dtype, device=x.device)
    rows = tile_rows(count)
    _stream[triton.cdiv(count, rows), triton.cdiv(n, tiles.columns), tiles.spans](
        x, values, scale, bias, parts, count, n, k, x.stride(0), values.stride(0),
        ROWS=rows, COLUMNS=tiles.columns, DEPTH=tiles.depth, EVEN=k % tiles.depth == 0,
        STAGES=tiles.stages, EARLY=tiles.early, APART=tiles.apart, WORDS=tiles.words,
        **tiles.options, **OPTIONS,
    )  # fmt: skip
    return parts


def readable(x: Tensor, tiles: Tiles) -> Tensor:
    """These rows, or a copy of them where they cannot be read as they lie."""
    if tiles.words and (x.stride(0) % 4 or x.storage_offset() % 4):
        return x.clone(memory_format=torch.contiguous_format)
    return x if x.stride(1) == 1 else x.contiguous()


# Values of a count would choose other machine code, and so perhaps other bits.
@triton.jit(do_not_specialize=["count"])
def _stream(
    x, weight, scale, bias, out, count, n, k, x_stride, w_stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, EVEN: tl.constexpr,
    STAGES: tl.constexpr, EARLY: tl.constexpr, APART: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    release()
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    span = tl.program_id(2)
    total = stream_tile(
        x, weight, scale, bias, row, column, span, tl.num_programs(2), count, n, k,
        x_stride, w_stride, DEPTH, EVEN, STAGES, EARLY, APART, WORDS,
    )  # fmt: skip
    out += (span * count + row).to(tl.int64)[:, None] * n + column[None, :]
    tl.store(out, total.T, (row < count)[:, None] & (column < n)[None, :])


@triton.jit
def stream_tile(
    x, weight, scale, bias, row, column, span, spans, count, n, k, x_stride, w_stride,
    DEPTH: tl.constexpr, EVEN: tl.constexpr, STAGES: tl.constexpr, EARLY: tl.constexpr,
    APART: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    """A span's sums [columns, rows] of a product, for a kernel that has not waited yet."""
    tiles = tl.cdiv(k, DEPTH)
    share = tl.cdiv(tiles, spans)
    first, last = span * share, tl.minimum(span * share + share, tiles)
    # Columns past the end read the last one: a clamp costs less than a mask.
    w_row = weight + tl.minimum(column, n - 1).to(tl.int64)[:, None] * w_stride
    held = hold(w_row, first, DEPTH, EARLY)
    wait()
    x_row = x + row.to(tl.int64)[:, None] * x_stride
    if scale is not None:
        scale = scales(scale, 0, n, tl.program_id(1) * column.shape[0], k)
    total = tl.zeros((column.shape[0], row.shape[0]), tl.float32)
    there = (row < count)[:, None]
    rows = rows_of(x_row, there, first, DEPTH, EARLY)
    for tile in tl.static_range(EARLY):
        begin = (first + tile) * DEPTH
        total = add_product(total, held[tile], rows[tile], scale, begin, APART=APART)
    for tile in tl.range(first + EARLY, last, num_stages=STAGES):
        total = add_tile(total, w_row, x_row, there, scale, tile, k, DEPTH, EVEN, APART, WORDS)
    if bias is not None and span == 0:
        total += tl.load(bias + tl.minimum(column, n - 1)).to(tl.float32)[:, None]
    return total


@triton.jit
def add_tile(
    total, w_row, x_row, there, scale, tile, k,
    DEPTH: tl.constexpr, EVEN: tl.constexpr, APART: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    """total + the tile that begins `tile` * DEPTH columns into the rows `w_row` of a weight, times
    the same columns of the rows `x_row` that are there, transposed."""
    if WORDS:
        product = words_product(w_row, x_row, there, tile, DEPTH)
        return total + product * tl.load(scale + tile * DEPTH // _BLOCK)
    else:
        at = tile * DEPTH + tl.arange(0, DEPTH)[None, :]
        w = load_weight(w_row, at, k, EVEN)
        a = load_rows(x_row, at, there, k, EVEN)
        return add_product(total, w, a, scale, tile * DEPTH, APART=APART)


@triton.jit
def load_rows(x_row, at, there, k, EVEN: tl.constexpr):
    if EVEN:
        return tl.load(x_row + at, there, other=0.0)
    return tl.load(x_row + at, there & (at < k), other=0.0)


@triton.jit
def load_weight(w_row, at, k, EVEN: tl.constexpr):
    if EVEN:
        return tl.load(w_row + at, eviction_policy="evict_first")
    return tl.load(w_row + at, at < k, other=0.0, eviction_policy="evict_first")


@triton.jit
def scales(scale, matrix, n, row, k):
    """Where those of a row of the matrices [n, k] of a weight are."""
    return scale + (matrix * tl.cdiv(n, _BLOCK) + row // _BLOCK) * tl.cdiv(k, _BLOCK)


@triton.jit
def add_product(total, weight, a, scale, at, a_scale=None, a_stride=0, APART: tl.constexpr = False):
    """total + a tile of a weight, which begins `at` columns into its rows, times rows `a`.

    `scale` may be one place for the tile, or one for each of its rows, [rows, 1]. `a_scale` is
    where the first scale of each of the rows `a` is, if these have scales, too. With APART a tile
    without a scale is a product of its own, too, as it is where weights are held (`held.py`).
    """
    if APART and scale is None:
        # By an addition alone the compiler would make one chain of both again.
        return tl.fma(tl.dot(weight, a.T, input_precision="ieee"), 1.0, total)
    elif scale is None:
        return tl.dot(weight, a.T, total, input_precision="ieee")
    else:
        tl.static_assert(_BLOCK % weight.shape[0] == 0 and _BLOCK % weight.shape[1] == 0)
        # To float16, as the hardware has it, and on by way of float32: two values an instruction.
        product = tl.dot(weight.to(tl.float32).to(a.dtype), a.T, input_precision="ieee")
        if a_scale is not None:
            product *= tl.load(a_scale + at // _BLOCK * a_stride)[None, :]
        return total + product * tl.load(scale + at // _BLOCK)


@triton.jit
def halves(total):
    """Of [2 * C, R] the two halves, transposed: [R, C] each."""
    half: tl.constexpr = total.shape[0] // 2
    return tl.split(total.reshape(2, half, total.shape[1]).permute(2, 1, 0))


@triton.jit
def _add(parts, out, n, SPANS: tl.constexpr, BLOCK: tl.constexpr):
    release()
    wait()
    row, at = tl.program_id(0), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = sum_parts(parts + row.to(tl.int64) * n + at, at < n, tl.num_programs(0) * n, SPANS)
    tl.store(out + row.to(tl.int64) * n + at, total, at < n)


@triton.jit
def sum_parts(parts, there, stride, SPANS: tl.constexpr):
    """Float32 sum of SPANS parts that lie `stride` apart, in the order of `joined`."""
    other: tl.constexpr = None if there is None else 0.0
    sums = ()
    for span in tl.static_range(SPANS):
        part = tl.load(parts + span * stride, there, other=other)
        sums = append(sums, part.to(tl.float32))
    return joined(sums, SPANS)


@triton.jit
def joined(sums, COUNT: tl.constexpr):
    """Their sum: of 4 or 8 neighbours first, so that a kernel may leave pairs or fours joined."""
    if COUNT == 8:
        left = (sums[0] + sums[1]) + (sums[2] + sums[3])
        return left + ((sums[4] + sums[5]) + (sums[6] + sums[7]))
    elif COUNT == 4:
        return (sums[0] + sums[1]) + (sums[2] + sums[3])
    else:
        total = sums[0]
        for other in tl.static_range(1, COUNT):
            total += sums[other]
        return total
