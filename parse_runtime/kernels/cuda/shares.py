"""Products of few rows of which each rank has a share: programs send theirs as they end.

So no kernel reads the shares again to send them, and words travel while other programs, and the
start of the next kernel, take their time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeGuard

import torch
import triton
import triton.language as tl
from torch import Tensor

from foundryc.cuda.exchange import DTYPES, WORD, Exchange, as_word, parameters, send
from foundryc.ranks import Ranks
from parse_runtime.kernels.cuda.chain import OPTIONS, opaque, release
from parse_runtime.kernels.cuda.stream import stream_tile
from parse_runtime.kernels.cuda.tiles import (
    COLUMNS,
    HELD_PROGRAMS,
    PROCESSORS,
    Tiles,
    choose,
    fitting,
    tile_rows,
)
from parse_runtime.kernels.quantized import Weight

SHORT = 2048
"""Up to such a K a rank's product has tiles of half the depth."""


@dataclass(frozen=True)
class Sent:
    """Shares [count, width] of a sum over `world` ranks, on their way to all of them.

    Whoever reads them makes their places ready again; nothing else is exchanged before.
    """

    exchange: Exchange
    world: int
    count: int
    width: int


def sends(weight: Weight) -> TypeGuard[Tensor]:
    """Whether `send_product` is for this matrix: it has programs enough to read it.

    Of a weight in FP8 it would need more, for which K is split (`_scaled` in `tiles.py`).
    """
    if not isinstance(weight, Tensor):
        return False
    programs: int = triton.cdiv(weight.shape[0], COLUMNS)
    return programs >= HELD_PROGRAMS


@opaque
def send_product(
    x: Tensor, weight: Tensor, ranks: Ranks, tiles: Tiles | None = None
) -> Sent | None:
    """Send this rank's x [T, K] times weight [N, K] transposed, rounded to x's dtype, to all.

    None where these are no whole words, or more than a rank can send at a time, as for no pass of a
    capture.
    """
    count, (n, k) = x.shape[0], weight.shape
    width = n // DTYPES[x.dtype]
    if n % DTYPES[x.dtype] or count * width * WORD > ranks.capacity:
        return None
    tiles = tiles or choose_shares(weight, x.dtype, count)
    if x.stride(1) != 1:
        x = x.contiguous()
    sent = Sent(parameters(ranks), ranks.world, count, n)
    rows = tile_rows(count)
    _stream_shares[triton.cdiv(count, rows), triton.cdiv(n, tiles.columns)](
        x, weight, *sent.exchange, width, count, n, k, x.stride(0), weight.stride(0),
        ROWS=rows, COLUMNS=tiles.columns, DEPTH=tiles.depth, EVEN=k % tiles.depth == 0,
        STAGES=tiles.stages, EARLY=tiles.early, WORLD=ranks.world,
        PAIRS=x.dtype == torch.bfloat16, **tiles.options, **OPTIONS,
    )  # fmt: skip
    return sent


def choose_shares(weight: Tensor, dtype: torch.dtype, count: int) -> Tiles:
    """As `choose`, of a matrix [N, K] whose K is not split (benchmarks/results/tp_sent.json).

    Few programs with many tiles on their way read as fast as many. Where K is short, as behind
    attention, tiles are, too: then a program of the next product has room beside one of these.
    """
    n, k = weight.shape
    tiles = choose(weight, dtype, count, gated=True)  # nor is K of gates and values
    if triton.cdiv(n, tiles.columns) > PROCESSORS or weight.dtype.itemsize != 2:
        return tiles
    held = tiles.early * tiles.depth
    depth = min(tiles.depth, 64) if k <= SHORT and k % tiles.depth == 0 else tiles.depth
    return fitting(replace(tiles, depth=depth, stages=8, early=held // depth), count, weight, dtype)


# Values of a count would choose other machine code; a buffer alternates.
@triton.jit(do_not_specialize=["count", "buffer"])
def _stream_shares(
    x, weight, state, slabs, slab, buffer, capacity, width, count, n, k, x_stride, w_stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, EVEN: tl.constexpr,
    STAGES: tl.constexpr, EARLY: tl.constexpr, WORLD: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    release()
    # Known before a pass is launched, as weights are.
    rank, ranks = tl.load(state), tl.load(state + 1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = stream_tile(
        x, weight, None, None, row, column, 0, 1, count, n, k, x_stride, w_stride,
        DEPTH, EVEN, STAGES, EARLY, False, False,
    )  # fmt: skip
    first = tl.program_id(1) * COLUMNS
    share(
        total, row, first, count, slabs, slab, buffer, capacity, width, rank, ranks, WORLD, PAIRS
    )  # fmt: skip


@triton.jit
def share(
    total, row, first, count, slabs, slab, buffer, capacity, width, rank, ranks,
    WORLD: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Send sums [columns, rows], whose columns begin with `first`, to all ranks."""
    if PAIRS:
        halves: tl.constexpr = total.shape[0] // 2
        both = total.reshape(halves, 2, total.shape[1]).permute(0, 2, 1)
        low, high = tl.split(both)
        at = first // 2 + tl.arange(0, halves)
    else:
        low, high, at = total, total, first + tl.arange(0, total.shape[0])
    word = as_word(low, high, PAIRS).T
    place = slabs + buffer + rank * capacity + row[:, None] * width + at[None, :]
    there = (row < count)[:, None] & (at < width)[None, :]
    # Read by nobody: a load has threads of a warp side by side along a row, and the stores, too.
    word |= tl.load(place, there & (ranks < 0), other=0)
    send(place, slab, rank, ranks, word, there, WORLD, PAIRS, False)
