"""Words between ranks inside kernels: stored into the peers' slabs, awaited in one's own.

docs/tensor-parallel.md says how slabs are laid out, and why an exchange needs no barrier. A word
is 32 bits: two bfloat16 numbers or one float32. A zero means that nothing has come yet, and so no
rank sends one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import globaltimer

from foundryrt.errors import UsageError

if TYPE_CHECKING:
    from foundryc.ranks import Ranks

DTYPES = {torch.bfloat16: 2, torch.float32: 1}
"""What can be sent, and how many of it are a word."""
WORD = 4
"""Bytes."""
Exchange = tuple[Tensor, Tensor, int, int, int]
"""What kernels are told of an exchange: see `parameters`."""
_BLOCK = 1024
"""Words of a program."""


def all_gather(x: Tensor, ranks: Ranks) -> Tensor:
    """[world, *x.shape]: what every rank has in its `x`; zeros of ranks that take no part.

    Where a rank does not answer in time, what is missing is zero too, and the error word says so.
    """
    padded = x.flatten()
    if x.numel() % DTYPES.get(x.dtype, 1):
        padded = torch.nn.functional.pad(padded, (0, 1))
    words = as_words(padded)
    out = torch.empty(ranks.world, words.shape[0], dtype=torch.int32, device=x.device)
    step = ranks.capacity // WORD
    for first in range(0, words.shape[0], step):
        count = min(step, words.shape[0] - first)
        _all_gather[(triton.cdiv(count, _BLOCK),)](
            words[first:], out[:, first:], *parameters(ranks), count, words.shape[0],
            WORLD=ranks.world, PAIRS=x.dtype == torch.bfloat16, BLOCK=_BLOCK,
        )  # fmt: skip
    return out.view(x.dtype)[:, : x.numel()].view(ranks.world, *x.shape)


def as_words(x: Tensor) -> Tensor:
    """`x` seen as words; UsageError where it is none of DTYPES, or no whole number of words."""
    if x.dtype not in DTYPES or not x.is_contiguous() or x.numel() % DTYPES[x.dtype]:
        raise UsageError(
            f"ranks cannot exchange {x.dtype} of shape {list(x.shape)} and strides {x.stride()}:"
            " give contiguous float32, or an even number of contiguous bfloat16"
        )
    return x.flatten().view(torch.int32)


def parameters(ranks: Ranks) -> Exchange:
    """Of the next exchange: state, slabs, and in words a slab, the buffer's place, a source's."""
    buffer = ranks.turn() * (ranks.stride // 2)
    slabs = ranks.slabs.view(torch.int32)
    return ranks.words, slabs, ranks.stride // WORD, buffer // WORD, ranks.capacity // WORD


# Where offsets are known to be multiples of 16 words, a thread moves four at once.
@triton.jit
def _all_gather(
    x, out, state, slabs, slab, buffer, capacity, count, row,
    WORLD: tl.constexpr, PAIRS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = at < count
    rank, ranks = tl.load(state), tl.load(state + 1)
    word = tl.load(x + at, there, other=0)
    place = slabs + buffer + rank * capacity + at
    send(place, slab, rank, ranks, word, there, WORLD, PAIRS, True)
    own = slabs + rank.to(tl.int64) * slab + buffer + at
    for source in tl.static_range(WORLD):
        awaited = there & takes_part(source, rank, ranks)
        word = take(own + source * capacity, state, source, awaited)
        tl.store(out + source * tl.cast(row, tl.int64) + at, word, there)


@triton.jit
def takes_part(source, rank, ranks):
    """Whether a rank sends anything: all do, or a rank is alone and sends to itself."""
    return (ranks > 1) | (source == rank)


@triton.jit
def send(
    place, slab, rank, ranks, word, there,
    WORLD: tl.constexpr, PAIRS: tl.constexpr, QUADS: tl.constexpr,
):  # fmt: skip
    """Store words at `place`, given in rank 0's slab, into every rank's slab, one's own first.

    QUADS is for threads that have a multiple of four words each.
    """
    for step in range(ranks):
        send_to(place, slab, (rank + step) % WORLD, word, there, PAIRS, QUADS)


@triton.jit
def send_to(place, slab, peer, word, there, PAIRS: tl.constexpr, QUADS: tl.constexpr):
    """As `send`, to one rank."""
    # Minus zero in place of zero: sums begin with plus zero, and do not change by it.
    word = tl.where(word == 0, MINUS_ZERO_PAIR if PAIRS else MINUS_ZERO, word)
    if QUADS:
        _store_quads(place + tl.cast(peer, tl.int64) * slab, word, there)
    else:
        _store(place + tl.cast(peer, tl.int64) * slab, word, there)


@triton.jit
def take(place, state, source, there):
    """The words of a rank, when all have come or it is too late; their places are zeros then.

    If it is too late, the state says whose are missing, and from then on nothing is waited for any
    more.
    """
    began, bound = globaltimer(), tl.load(state + 3).to(tl.int64) * 1000000
    word = tl.full(there.shape, 0, tl.int32)
    late = tl.load(state) * 0
    waiting = late == 0
    while waiting:
        word = tl.load(place, there, other=0, volatile=True)
        missing = tl.where(there & (word == 0), source + 1, 0)
        late = lateness(missing, began, bound, state)
        waiting = (late > 0) & (late % 2 == 0)
    tell(late, state)
    tl.debug_barrier()  # another thread may read a word than the one that clears it
    tl.store(place, 0, there)
    return word


@triton.jit
def await_sums(
    own, capacity, state, rank, ranks, there, WORLD: tl.constexpr, PAIRS: tl.constexpr
):  # fmt: skip
    """Float32 sums, in the order of ranks, of the words of all; see `take`.

    What a look finds is summed at once: words that have come are not read another time.
    """
    began, bound = globaltimer(), tl.load(state + 3).to(tl.int64) * 1000000
    low, high = tl.full(there.shape, 0, tl.float32), tl.full(there.shape, 0, tl.float32)
    late = rank - rank
    waiting = ranks > 0
    while waiting:
        missing = tl.full(there.shape, 0, tl.int32)
        low, high = tl.full(there.shape, 0, tl.float32), tl.full(there.shape, 0, tl.float32)
        for source in tl.static_range(WORLD):
            awaited = there & takes_part(source, rank, ranks)
            word = tl.load(own + source * capacity, awaited, other=0, volatile=True)
            missing = tl.where(awaited & (word == 0), source + 1, missing)
            lower, upper = numbers(word, PAIRS)
            low += lower
            high += upper
        late = lateness(missing, began, bound, state)
        waiting = (late > 0) & (late % 2 == 0)
    tell(late, state)
    return low, high


@triton.jit
def lateness(missing, began, bound, state):
    """0 where no rank is `missing`; else twice 1 + a missing rank, and one more if it is too late.

    Another program's error ends this one's wait, too. Warps may read the clock and the error
    differently, and must leave together: the maximum over all of them decides.
    """
    over = (globaltimer() - began > bound) | (tl.load(state + 2, volatile=True) != 0)
    return tl.max(tl.where(missing > 0, 2 * missing + over.to(tl.int32), 0), 0)


@triton.jit
def tell(late, state):
    """Say whose words were missing when it was too late, unless something was said before."""
    if late > 0:
        tl.store(state + 2, late // 2, tl.load(state + 2, volatile=True) == 0)


@triton.jit
def clear(own, capacity, rank, ranks, there, WORLD: tl.constexpr):
    """Make the places of words that have been read ready for the exchange after the next."""
    tl.debug_barrier()  # another thread may read a word than the one that clears it
    for source in tl.static_range(WORLD):
        tl.store(own + source * capacity, 0, there & takes_part(source, rank, ranks))


@triton.jit
def numbers(word, PAIRS: tl.constexpr):
    """Float32 numbers of words: the lower and the upper one, or one twice."""
    if PAIRS:
        low = (word << 16).to(tl.float32, bitcast=True)
        return low, (word & -65536).to(tl.float32, bitcast=True)
    one = word.to(tl.float32, bitcast=True)
    return one, one


@triton.jit
def as_word(low, high, PAIRS: tl.constexpr):
    """A word of float32 numbers, rounded to bfloat16 where there are two."""
    if PAIRS:
        lower = low.to(tl.bfloat16).to(tl.uint16, bitcast=True).to(tl.uint32)
        upper = high.to(tl.bfloat16).to(tl.uint16, bitcast=True).to(tl.uint32)
        return (lower | (upper << 16)).to(tl.int32, bitcast=True)
    return low.to(tl.int32, bitcast=True)


MINUS_ZERO_PAIR: tl.constexpr = tl.constexpr(-2147450880)  # 0x80008000
MINUS_ZERO: tl.constexpr = tl.constexpr(-2147483648)


@triton.jit
def _store(place, word, there):
    """At once, and in a way that other devices see whole words."""
    tl.inline_asm_elementwise(
        """
        {
            .reg .pred stored;
            setp.ne.s32 stored, $3, 0;
            @stored st.relaxed.sys.global.b32 [$1], $2;
            mov.b32 $0, 0;
        }
        """,
        "=r,l,r,r",
        [place.to(tl.int64), word, there.to(tl.int32)],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def _store_quads(place, word, there):
    """As `_store`, four words of a thread at once where they lie side by side.

    The layout of a tensor is the compiler's choice, so the addresses are looked at.
    """
    tl.inline_asm_elementwise(
        """
        {
            .reg .pred a, b, c, d, all, apart;
            .reg .b64 next;
            setp.ne.s32 a, $12, 0;
            setp.ne.s32 b, $13, 0;
            setp.ne.s32 c, $14, 0;
            setp.ne.s32 d, $15, 0;
            and.b64 next, $4, 15;
            setp.eq.and.s64 all, next, 0, a;
            add.s64 next, $4, 4;
            setp.eq.and.s64 all, next, $5, all;
            add.s64 next, $4, 8;
            setp.eq.and.s64 all, next, $6, all;
            add.s64 next, $4, 12;
            setp.eq.and.s64 all, next, $7, all;
            and.pred all, all, b;
            and.pred all, all, c;
            and.pred all, all, d;
            not.pred apart, all;
            and.pred a, a, apart;
            and.pred b, b, apart;
            and.pred c, c, apart;
            and.pred d, d, apart;
            @all st.relaxed.sys.global.v4.b32 [$4], {$8, $9, $10, $11};
            @a st.relaxed.sys.global.b32 [$4], $8;
            @b st.relaxed.sys.global.b32 [$5], $9;
            @c st.relaxed.sys.global.b32 [$6], $10;
            @d st.relaxed.sys.global.b32 [$7], $11;
            mov.b32 $0, 0;
            mov.b32 $1, 0;
            mov.b32 $2, 0;
            mov.b32 $3, 0;
        }
        """,
        "=r,=r,=r,=r,l,l,l,l,r,r,r,r,r,r,r,r",
        [place.to(tl.int64), word, there.to(tl.int32)],
        dtype=tl.int32,
        is_pure=False,
        pack=4,
    )
