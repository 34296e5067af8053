"""Products of few rows with a weight matrix, bound by the memory that the weights come from.

A program owns some columns of the result and a span of K. What is computed is the transpose, weight
times rows: then the weights fill the larger side of a tensor core's tile, and the rows, a multiple
of 16, the smaller. Spans and the order of sums depend on the matrix alone, and the tensor cores sum
a row of a tile in one way whichever row it is: so a row's bits do not depend on the other rows. Of
a quantized weight a tile lies in one block: its scale is a factor of the tile's product, in
float32.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from parse_runtime.kernels.cuda.chain import OPTIONS, opaque, release, wait
from parse_runtime.kernels.cuda.early import hold, rows_of
from parse_runtime.kernels.quantized import BLOCK, Weight, split
from parse_runtime.kernels.streamed import shared


@dataclass(frozen=True)
class Tiles:
    """Columns and K of a tile, spans of K, pipeline stages, tiles that are held before a wait.

    Columns, stages and held tiles leave a row's bits alone, and so does K where there are neither
    spans nor scales.
    """

    columns: int
    depth: int
    spans: int
    stages: int
    early: int = 0
    registers: int | None = None
    """Of a thread that holds some: with more, fewer programs would fit beside each other."""

    @property
    def options(self) -> dict[str, int]:
        """Launch options."""
        bound = {} if self.registers is None else {"maxnreg": self.registers}
        return {"num_warps": 4, "num_stages": self.stages, **bound}


def choose(weight: Tensor, dtype: torch.dtype, count: int, most_spans: int | None = None) -> Tiles:
    """Tiles of a matrix [N, K], for `count` rows of `dtype` (benchmarks/results/parse_linear.json).

    A tile is no larger than a block of scales, and divides it.
    """
    n, k = weight.shape
    # Float32 has no tensor cores here: a deep tile would be a long unrolled loop.
    deepest = BLOCK if dtype.itemsize == 2 else 32
    depth = min(deepest, max(16, triton.next_power_of_2(k)))
    scaled = weight.dtype.itemsize == 1  # by tile: its depth counts for a row's bits
    blocks = triton.cdiv(n, COLUMNS)
    limit = most_spans or MOST_SPANS
    most = min(limit, max(1, k // (2 * depth)))
    once = min(max(1, PROCESSORS // blocks), most)
    if blocks <= PROCESSORS and (once == most or blocks * once >= 0.8 * PROCESSORS):
        # One program a multiprocessor, with all of its shared memory for what is on its way.
        tiles = Tiles(COLUMNS, depth, once, 6)
    elif blocks <= 2 * PROCESSORS:
        spans = min(limit, 4, max(1, k // 256))
        tiles = Tiles(COLUMNS, min(depth, 64), spans, 4 if spans > 1 else 6)
    elif blocks <= 1.05 * RESIDENT or (count > 16 and not scaled):
        # Of few more than are resident with deep tiles the last would run alone.
        tiles = Tiles(COLUMNS, min(depth, 64), 1, 4)
    else:
        tiles = Tiles(COLUMNS, depth, 1, 3)
    tiles = fitting(tiles, count, dtype)
    few = count <= 16 and blocks * tiles.spans <= RESIDENT
    if few and shared() and dtype.itemsize == 2 and not scaled and k % tiles.depth == 0:
        tiles = _holding(tiles, blocks, k)
    return tiles


def _holding(tiles: Tiles, blocks: int, k: int) -> Tiles:
    """Tiles of which a program holds the first ones; every span must have as many."""
    early, registers = EARLY, REGISTERS
    if tiles.spans == 1 and PROCESSORS < blocks <= 2 * PROCESSORS and k % BLOCK == 0:
        # Most multiprocessors have one program, which reads for two.
        tiles = Tiles(COLUMNS, BLOCK, 1, 5)
        early, registers = MORE_EARLY, MORE_REGISTERS
    count = k // tiles.depth
    last = count - triton.cdiv(count, tiles.spans) * (tiles.spans - 1)
    early = max(0, min(early // tiles.depth, last))
    return replace(tiles, early=early, registers=registers if early else None)


def fitting(tiles: Tiles, count: int, dtype: torch.dtype) -> Tiles:
    """With as many stages as shared memory has room for."""
    stage = (tiles.columns + tile_rows(count)) * tiles.depth * dtype.itemsize
    stages = max(1, min(tiles.stages, shared_memory() // stage))
    return replace(tiles, stages=stages)


@cache
def shared_memory() -> int:
    """Bytes that a program may have, some left for what else it keeps there."""
    most = 227 << 10  # Hopper's
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties()
        most = properties.shared_memory_per_block_optin  # type: ignore[attr-defined]
    return most - (4 << 10)


COLUMNS = 64
"""The least that Hopper's tensor cores take of the larger side."""
PROCESSORS = 132
"""Multiprocessors of a Hopper GPU."""
MOST_SPANS = 8
RESIDENT = 3 * PROCESSORS
"""Programs that are on a device at once: where there are more, most do not start early."""
EARLY, REGISTERS = 384, 168
"""Columns of a weight that a program holds before it waits, and a thread's registers then,"""
MORE_EARLY, MORE_REGISTERS = 640, 255
"""and where a multiprocessor has two programs at most."""
_BLOCK = tl.constexpr(BLOCK)


def tile_rows(count: int) -> int:
    """Rows of a tile; any gives the same bits."""
    return 16 if count <= 16 else 32 if count <= 32 else 64


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
    if x.stride(1) != 1:
        x = x.contiguous()
    dtype = torch.float32 if tiles.spans > 1 else single
    parts = torch.empty(tiles.spans, count, n, dtype=dtype, device=x.device)
    rows = tile_rows(count)
    _stream[triton.cdiv(count, rows), triton.cdiv(n, tiles.columns), tiles.spans](
        x, values, scale, bias, parts, count, n, k, x.stride(0), values.stride(0),
        ROWS=rows, COLUMNS=tiles.columns, DEPTH=tiles.depth, EVEN=k % tiles.depth == 0,
        STAGES=tiles.stages, EARLY=tiles.early, **tiles.options, **OPTIONS,
    )  # fmt: skip
    return parts


# Values of a count would choose other machine code, and so perhaps other bits.
@triton.jit(do_not_specialize=["count"])
def _stream(
    x, weight, scale, bias, out, count, n, k, x_stride, w_stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, EVEN: tl.constexpr,
    STAGES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    release()
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    span = tl.program_id(2)
    total = stream_tile(
        x, weight, scale, bias, row, column, span, tl.num_programs(2), count, n, k,
        x_stride, w_stride, DEPTH, EVEN, STAGES, EARLY,
    )  # fmt: skip
    out += (span * count + row).to(tl.int64)[:, None] * n + column[None, :]
    tl.store(out, total.T, (row < count)[:, None] & (column < n)[None, :])


@triton.jit
def stream_tile(
    x, weight, scale, bias, row, column, span, spans, count, n, k, x_stride, w_stride,
    DEPTH: tl.constexpr, EVEN: tl.constexpr, STAGES: tl.constexpr, EARLY: tl.constexpr,
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
    depth = tl.arange(0, DEPTH)
    total = tl.zeros((column.shape[0], row.shape[0]), tl.float32)
    rows = rows_of(x_row, (row < count)[:, None], first, DEPTH, EARLY)
    for tile in tl.static_range(EARLY):
        total = add_product(total, held[tile], rows[tile], scale, (first + tile) * DEPTH)
    for tile in tl.range(first + EARLY, last, num_stages=STAGES):
        at = tile * DEPTH + depth[None, :]
        w = load_weight(w_row, at, k, EVEN)
        a = load_rows(x_row, at, (row < count)[:, None], k, EVEN)
        total = add_product(total, w, a, scale, tile * DEPTH)
    if bias is not None and span == 0:
        total += tl.load(bias + tl.minimum(column, n - 1)).to(tl.float32)[:, None]
    return total


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
def add_product(total, weight, a, scale, at, a_scale=None, a_stride=0):
    """total + a tile of a weight, which begins `at` columns into its rows, times rows `a`.

    `scale` may be one place for the tile, or one for each of its rows, [rows, 1]. `a_scale` is
    where the first scale of each of the rows `a` is, if these have scales, too.
    """
    if scale is None:
        return tl.dot(weight, a.T, total, input_precision="ieee")
    else:
        tl.static_assert(_BLOCK % weight.shape[0] == 0 and _BLOCK % weight.shape[1] == 0)
        product = tl.dot(weight.to(a.dtype), a.T, input_precision="ieee")
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
    """Float32 sum of SPANS parts that lie `stride` apart, in ascending order."""
    other: tl.constexpr = None if there is None else 0.0
    total = tl.load(parts, there, other=other).to(tl.float32)
    for span in tl.static_range(1, SPANS):
        total += tl.load(parts + span * stride, there, other=other)
    return total
