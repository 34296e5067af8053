"""How products of few rows are cut: into tiles of columns and of K, and into spans of K.

The order of a row's sums follows from it. So it depends on the matrix alone, and two kernels that
multiply by one matrix, one that holds it and one that streams it, have the same spans and tiles.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
import triton
from torch import Tensor

from parse_runtime.kernels.quantized import BLOCK, Weight, split
from parse_runtime.kernels.streamed import shared

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
"""and where some multiprocessors have two programs, and none has three."""
HELD_DEPTH, HELD_TILES = 128, 4
"""K of a held tile, and such tiles that the registers of a program hold. Of gates and values, twice
as many of half the columns."""
HELD_PROGRAMS, MOST_HELD = 64, 2 * PROCESSORS
"""Programs that suffice to read a held matrix, and those that a GPU has at a time: fewer leave
fewer sums for each program of the next kernel (benchmarks/results/parse_held.json)."""


@dataclass(frozen=True)
class Tiles:
    """Columns and K of a tile, spans of K, pipeline stages, tiles that are held before a wait.

    Columns, stages and held tiles leave a row's bits alone, and so does K where there are neither
    spans nor scales, nor tiles that are products of their own (`apart`).
    """

    columns: int
    depth: int
    spans: int
    stages: int
    early: int = 0
    apart: bool = False
    registers: int | None = None
    """The most that a thread may have; None leaves it to the compiler."""
    words: bool = False
    """Whether `words.py` reads the weight's tiles, with half as many warps."""

    @property
    def options(self) -> dict[str, int]:
        """Launch options."""
        bound = {} if self.registers is None else {"maxnreg": self.registers}
        return {"num_warps": 2 if self.words else 4, "num_stages": self.stages, **bound}


@dataclass(frozen=True)
class Holding:
    """Spans of K, tiles of a span, columns of a tile; streamed spans that one of these joins."""

    spans: int
    tiles: int
    columns: int
    joined: int


def holding(weight: Weight, gated: bool = False) -> Holding | None:
    """How programs hold a matrix [N, K]; None where they cannot.

    Tiles of K are products of their own then, in whichever kernel.
    """
    values, scale = split(weight)
    if scale is not None:
        return None
    n, k = values.shape
    half = 2 if gated else 1
    streamed = _streamed(values, values.dtype, 1, gated)
    spans, tiles = streamed.spans, k // (streamed.spans * HELD_DEPTH)
    whole = k == spans * tiles * HELD_DEPTH
    # Only of 16-bit weights are tiles so deep.
    if streamed.depth != HELD_DEPTH or not whole or tiles > HELD_TILES * half:
        return None
    programs = triton.cdiv(n, COLUMNS // half) * spans
    # Of other numbers of spans the sums are added one after the other (`joined` in `stream.py`).
    counts = [1, 2, 4, 8] if spans in (2, 4, 8) else [1]
    few = min(spans, HELD_TILES // tiles, programs // HELD_PROGRAMS)
    joined = max((count for count in counts if count <= few), default=1)
    if programs > MOST_HELD * joined:
        return None
    return Holding(spans // joined, tiles * joined, COLUMNS // half, joined)


def choose(weight: Tensor, dtype: torch.dtype, count: int, gated: bool = False) -> Tiles:
    """Tiles of a matrix [N, K], for `count` rows of `dtype` (benchmarks/results/parse_layers.json).

    A tile is no larger than a block of scales, and divides it.
    """
    n, k = weight.shape
    if weight.dtype.itemsize == 1:
        return _scaled(weight, dtype, count, gated)
    blocks = triton.cdiv(n, COLUMNS)
    tiles = _streamed(weight, dtype, count, gated)
    if not shared() and holding(weight, gated) is not None:
        tiles = replace(tiles, apart=True)
    # Those of `_streamed` that are two a multiprocessor leave no room for a third.
    room = 2 * PROCESSORS if blocks <= 2 * PROCESSORS else RESIDENT
    few = count <= 16 and blocks * tiles.spans <= room
    if few and shared() and dtype.itemsize == 2 and k % tiles.depth == 0:
        tiles = _with_early(tiles, blocks, k)
    return fitting(tiles, count, weight, dtype)


def _streamed(weight: Tensor, dtype: torch.dtype, count: int, gated: bool) -> Tiles:
    """Of gates and values K is not split."""
    n, k = weight.shape
    depth = _depth(k, dtype)
    blocks = triton.cdiv(n, COLUMNS)
    most = _most_spans(k, depth, gated)
    once = min(max(1, PROCESSORS // blocks), most)
    if blocks <= PROCESSORS and (once == most or blocks * once >= 0.8 * PROCESSORS):
        # One program a multiprocessor, with all of its shared memory for what is on its way.
        return Tiles(COLUMNS, depth, _filled(once, k, depth), 6)
    if _by_two(blocks):
        depth = _dividing(k, depth)
        spans = 1 if blocks > 2 * PROCESSORS else min(most, max(2, 2 * PROCESSORS // blocks))
        tiles = Tiles(COLUMNS, depth, _filled(spans, k, depth), 5 * BLOCK // max(depth, 64))
        return fitting(tiles, count, weight, dtype, programs=2)
    if count > 32:
        return Tiles(COLUMNS, min(depth, 64), 1, 4)
    return Tiles(COLUMNS, depth, 1, 3)


def _scaled(weight: Tensor, dtype: torch.dtype, count: int, gated: bool) -> Tiles:
    """Those of a weight in FP8. A row's bits depend on their depth, so `count` leaves that alone.

    A program converts a tile, multiplies it, and only then goes on with the next. So there are
    always others beside it, with all of the shared memory for what is on its way. Of few rows the
    compiler would keep to fewer registers than it is allowed here, and convert and multiply in
    turn (benchmarks/results/parse_fp8_words.json).
    """
    n, k = weight.shape
    depth = _dividing(k, _depth(k, dtype))
    blocks = triton.cdiv(n, COLUMNS)
    spans = min(_most_spans(k, depth, gated), max(1, 2 * PROCESSORS // blocks))
    words = count <= 16 and dtype == torch.bfloat16 and k % depth == 0 and depth % 32 == 0
    words = words and _is_hopper()
    tiles = Tiles(
        COLUMNS, depth, _filled(spans, k, depth), 9 * BLOCK // max(depth, 64),
        registers=REGISTERS if words else None, words=words,
    )  # fmt: skip
    programs = 2 if not gated or _by_two(blocks) else 3
    return fitting(tiles, count, weight, dtype, programs)


def _depth(k: int, dtype: torch.dtype) -> int:
    """Float32 has no tensor cores here: a deep tile would be a long unrolled loop."""
    deepest = BLOCK if dtype.itemsize == 2 else 32
    power: int = triton.next_power_of_2(k)
    return min(deepest, max(16, power))


def _dividing(k: int, depth: int) -> int:
    """`depth`, or 64 where that divides K and `depth` does not."""
    return min(depth, 64) if k % depth and k % 64 == 0 else depth


def _most_spans(k: int, depth: int, gated: bool) -> int:
    return 1 if gated else min(MOST_SPANS, max(1, k // (2 * depth)))


def _by_two(blocks: int) -> bool:
    """Whether two programs a multiprocessor read faster than three.

    Of three, few would be left for another turn, and run alone.
    """
    return blocks <= 2 * PROCESSORS or RESIDENT < blocks <= 4 * PROCESSORS


def _filled(spans: int, k: int, depth: int) -> int:
    """So many spans of K, or fewer, of which none is without tiles."""
    tiles = -(-k // depth)
    return -(-tiles // -(-tiles // spans))


def _with_early(tiles: Tiles, blocks: int, k: int) -> Tiles:
    """Tiles of which a program holds the first ones; every span must have as many."""
    early, registers = EARLY, REGISTERS
    if PROCESSORS < blocks * tiles.spans <= 2 * PROCESSORS:
        early, registers = MORE_EARLY, MORE_REGISTERS
    count = k // tiles.depth
    last = count - triton.cdiv(count, tiles.spans) * (tiles.spans - 1)
    early = max(0, min(early // tiles.depth, last))
    return replace(tiles, early=early, registers=registers if early else None)


def fitting(
    tiles: Tiles, count: int, weight: Tensor, dtype: torch.dtype, programs: int = 1
) -> Tiles:
    """With as many stages as shared memory has room for, of so many programs."""
    line = tiles.columns * weight.dtype.itemsize + tile_rows(count) * dtype.itemsize
    stage = line * tiles.depth
    stages = max(1, min(tiles.stages, shared_memory() // (programs * stage)))
    return replace(tiles, stages=stages)


@cache
def _is_hopper() -> bool:
    """Whether more rows are multiplied by `wgmma`; so it is taken to be where there is no GPU."""
    return not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] == 9


@cache
def shared_memory() -> int:
    """Bytes that a program may have, some left for what else it keeps there."""
    most = 227 << 10  # Hopper's
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties()
        most = properties.shared_memory_per_block_optin  # type: ignore[attr-defined]
    return most - (4 << 10)


def tile_rows(count: int) -> int:
    """Rows of a tile; any gives the same bits."""
    return 16 if count <= 16 else 32 if count <= 32 else 64
