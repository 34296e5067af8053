"""Sums over the ranks of tensor parallelism: of few rows with the norm behind them, of many alone.

Every rank adds up the same words in the same order: all hold the same bits afterwards.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from foundryc.cuda.exchange import (
    DTYPES,
    WORD,
    Exchange,
    as_word,
    as_words,
    await_sums,
    clear,
    numbers,
    parameters,
    send,
    send_to,
    take,
)
from foundryc.ranks import Ranks
from parse_runtime.kernels.cuda.chain import OPTIONS, opaque, release, wait
from parse_runtime.kernels.cuda.shares import Sent
from parse_runtime.kernels.cuda.stream import sum_parts

REGISTERS = 80
"""Of a thread of `reduce_add_rms_norm`, where it has up to eight words of up to four ranks."""
_BLOCK = 256
"""Words of a rank's piece that a program of `all_reduce` adds up."""


@opaque
def reduce_add_rms_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, offset: float, ranks: Ranks
) -> tuple[Tensor, Tensor]:
    """`add_rms_norm` of the sum over ranks, in one kernel: every rank sends every other its rows.

    A row's bits depend on that row alone.
    """
    parts = x.contiguous() if x.dim() == 3 else x.contiguous()[None]
    _, count, width = parts.shape
    normed = torch.empty(count, width, dtype=weight.dtype, device=x.device)
    total = torch.empty_like(normed)
    held = ranks.capacity // (width // DTYPES[weight.dtype] * WORD)
    for first in range(0, count, held):
        rows = slice(first, min(first + held, count))
        _launch(
            parts[:, rows], None if residual is None else residual[rows], weight, normed[rows],
            total[rows], parameters(ranks), ranks.world, count * width, eps, offset,
        )  # fmt: skip
    return normed, total


@opaque
def gather_add_rms_norm(
    sent: Sent, residual: Tensor | None, weight: Tensor, eps: float, offset: float
) -> tuple[Tensor, Tensor]:
    """As `reduce_add_rms_norm`, of shares that have been sent."""
    normed = torch.empty(sent.count, sent.width, dtype=weight.dtype, device=weight.device)
    total = torch.empty_like(normed)
    _launch(None, residual, weight, normed, total, sent.exchange, sent.world, 0, eps, offset)
    return normed, total


def _launch(
    parts: Tensor | None, residual: Tensor | None, weight: Tensor, normed: Tensor, total: Tensor,
    exchange: Exchange, world: int, span: int, eps: float, offset: float,
) -> None:  # fmt: skip
    row = weight.shape[0] // DTYPES[weight.dtype]
    block = max(128, triton.next_power_of_2(row))  # four words of a thread
    warps = min(16, max(1, block // 128))
    # With all that the compiler would take, no program could start beside those of a product.
    bound = {"maxnreg": REGISTERS} if block <= 256 * warps and world <= 4 else {}
    _reduce_add_rms_norm[(normed.shape[0],)](
        parts, None if residual is None else as_words(residual), as_words(weight),
        as_words(normed), as_words(total), *exchange, row, span, eps, offset,
        SPANS=0 if parts is None else parts.shape[0], WORLD=world,
        PAIRS=weight.dtype == torch.bfloat16, BLOCK=block, num_warps=warps, **bound, **OPTIONS,
    )  # fmt: skip


# Buffers begin at multiples of 16 words, which the compiler is to know: see `_all_reduce`.
@triton.jit(do_not_specialize=["span"])
def _reduce_add_rms_norm(
    parts, residual, weight, normed, total, state, slabs, slab, buffer, capacity, width, span,
    eps, offset,
    SPANS: tl.constexpr, WORLD: tl.constexpr, PAIRS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    release()
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    there = at < width
    scale = tl.load(weight + at, there, other=0)
    # Known before a pass is launched, as weights are.
    rank, ranks = tl.load(state), tl.load(state + 1)
    wait()
    here = row * width + at
    if SPANS > 0:  # else a product has sent them
        if PAIRS:
            both = 2 * here[:, None] + tl.arange(0, 2)[None, :]
            low, high = tl.split(sum_parts(parts + both, there[:, None], span, SPANS))
        else:
            low = sum_parts(parts + here, there, span, SPANS)
            high = low
        place = slabs + buffer + rank * capacity + here
        send(place, slab, rank, ranks, as_word(low, high, PAIRS), there, WORLD, PAIRS, True)
    if residual is not None:  # read while words are on their way
        before = tl.load(residual + here, there, other=0)
    own = slabs + rank.to(tl.int64) * slab + buffer + here
    low, high = await_sums(own, capacity, state, rank, ranks, there, WORLD, PAIRS)
    clear(own, capacity, rank, ranks, there, WORLD)
    if residual is not None:
        more_low, more_high = numbers(before, PAIRS)
        low += more_low
        high += more_high
    word = as_word(low, high, PAIRS)
    tl.store(total + here, word, there)
    low, high = numbers(word, PAIRS)
    if PAIRS:
        mean = (tl.sum(low * low, 0) + tl.sum(high * high, 0)) / (2 * width)
    else:
        mean = tl.sum(low * low, 0) / width
    factor = tl.rsqrt(mean + eps)
    low_scale, high_scale = numbers(scale, PAIRS)
    low *= factor * (low_scale + offset)
    high *= factor * (high_scale + offset)
    tl.store(normed + here, as_word(low, high, PAIRS), there)


@opaque
def all_reduce(x: Tensor, ranks: Ranks) -> Tensor:
    """The sum over ranks of x, float32 or bfloat16: each adds up a piece and sends it to all.

    Fewer bytes travel than by sending everything to everyone, for one more way between ranks.
    """
    words = as_words(x)
    out = torch.empty_like(words)
    # A source's place is halved: pieces to add up, then sums.
    step = ranks.capacity // WORD // 2 // _BLOCK * _BLOCK * ranks.world
    for first in range(0, words.shape[0], step):
        count = min(step, words.shape[0] - first)
        _all_reduce[(triton.cdiv(count, _BLOCK * ranks.world),)](
            words[first:], out[first:], *parameters(ranks), count,
            WORLD=ranks.world, PAIRS=x.dtype == torch.bfloat16, BLOCK=_BLOCK, num_warps=2,
            **OPTIONS,
        )  # fmt: skip
    return out.view(x.dtype).view(x.shape)


# Where offsets are known to be multiples of 16 words, a thread moves four at once. One by one, a
# look at words asks for each sector of the memory four times: `tp_exchange_ways.json`.
@triton.jit
def _all_reduce(
    x, out, state, slabs, slab, buffer, capacity, count,
    WORLD: tl.constexpr, PAIRS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    release()
    wait()
    rank, ranks = tl.load(state), tl.load(state + 1)
    tile, at = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    first = tile * (WORLD * BLOCK) + at
    here = tile * BLOCK + at
    if ranks == 1:  # at capture
        for piece in tl.static_range(WORLD):
            one = first + piece * BLOCK
            tl.store(out + one, tl.load(x + one, one < count, other=0), one < count)
    else:
        place = slabs + buffer + rank * capacity + here
        for step in tl.static_range(WORLD):
            # Each rank begins with the next one's piece, so that all links are in use.
            piece = (rank + step + 1) % WORLD
            one = first + piece * BLOCK
            word = tl.load(x + one, one < count, other=0)
            send_to(place, slab, piece, word, one < count, PAIRS, True)
        own = slabs + rank.to(tl.int64) * slab + buffer + here
        mine = first + rank * BLOCK < count
        low, high = await_sums(own, capacity, state, rank, ranks, mine, WORLD, PAIRS)
        clear(own, capacity, rank, ranks, mine, WORLD)
        half = capacity // 2
        total = as_word(low, high, PAIRS)
        for step in tl.static_range(WORLD):
            send_to(place + half, slab, (rank + step + 1) % WORLD, total, mine, PAIRS, True)
        # The last tile's pieces of some ranks are shorter, or not there at all.
        for step in tl.static_range(WORLD):
            piece = (rank + WORLD - step) % WORLD  # in the order in which they come
            one = first + piece * BLOCK
            word = take(own + half + piece * capacity, state, piece, one < count)
            tl.store(out + one, word, one < count)
