"""Ways to add up many rows, and phases of one alone, for exchange_tried.py."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import globaltimer

from foundryc.cuda.exchange import (
    MINUS_ZERO,
    MINUS_ZERO_PAIR,
    WORD,
    as_word,
    as_words,
    await_words,
    lateness,
    numbers,
    parameters,
)
from foundryc.ranks import Ranks
from parse_runtime.kernels.cuda.chain import OPTIONS, release, wait

PHASES = ("push", "push weak", "sums", "gather", "pull")


def all_reduce(
    x: Tensor, ranks: Ranks, block: int, warps: int, *, quads: bool = True, rotate: bool = True,
    sample: bool = True, regs: int = 0, phase: str = "",
) -> Tensor:  # fmt: skip
    words = as_words(x)
    out = torch.empty_like(words)
    step = ranks.capacity // WORD // 2 // block * block * ranks.world
    for first in range(0, words.shape[0], step):
        count = min(step, words.shape[0] - first)
        bound = {"maxnreg": regs} if regs else {}
        kernel = _phase if phase else _all_reduce
        how = {"PHASE": phase} if phase else {"ROTATE": rotate, "SAMPLE": sample}
        kernel[(triton.cdiv(count, block * ranks.world),)](
            words[first:], out[first:], *parameters(ranks), count,
            WORLD=ranks.world, PAIRS=x.dtype == torch.bfloat16, BLOCK=block, QUADS=quads,
            num_warps=warps, **how, **bound, **OPTIONS,
        )  # fmt: skip
    return out.view(x.dtype).view(x.shape)


@triton.jit
def _all_reduce(
    x, out, state, slabs, slab, buffer, capacity, count,
    WORLD: tl.constexpr, PAIRS: tl.constexpr, BLOCK: tl.constexpr, QUADS: tl.constexpr,
    ROTATE: tl.constexpr, SAMPLE: tl.constexpr,
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
        half = capacity // 2
        for step in tl.static_range(WORLD):
            piece = (rank + step + 1) % WORLD if ROTATE else step
            one = first + piece * BLOCK
            word = tl.load(x + one, one < count, other=0)
            _send(place, slab, piece, word, one < count, PAIRS, QUADS)
        own = slabs + rank.to(tl.int64) * slab + buffer + here
        mine = first + rank * BLOCK < count
        # A word of each warp's last store shows when it is worth looking at all of them.
        some = tl.arange(0, BLOCK // 128) * 128 + 127
        few = slabs + rank.to(tl.int64) * slab + buffer + tile * BLOCK + some
        if SAMPLE:
            there = tile * (WORLD * BLOCK) + rank * BLOCK + some < count
            await_words(few, capacity, state, there, 0, WORLD)
        low, high = await_sums(own, capacity, state, rank, mine, WORLD, PAIRS)
        tl.debug_barrier()
        for source in tl.static_range(WORLD):
            tl.store(own + source * capacity, 0, mine)
        total = as_word(low, high, PAIRS)
        for step in tl.static_range(WORLD):
            peer = (rank + step + 1) % WORLD
            _send(place + half, slab, peer, total, mine, PAIRS, QUADS)
        for step in tl.static_range(WORLD):
            piece = (rank + WORLD - step) % WORLD if ROTATE else step
            one = first + piece * BLOCK
            if SAMPLE:
                there = tile * (WORLD * BLOCK) + piece * BLOCK + some < count
                await_words(few + half, capacity, state, there, piece, 1)
            sums = own + half + piece * capacity
            word = await_piece(sums, state, piece, one < count)
            tl.store(out + one, word, one < count)
            tl.debug_barrier()
            tl.store(sums, 0, one < count)


FLAGS: tl.constexpr = tl.constexpr(1 << 16)
"""Words before the data of a source: flags of either phase."""


def by_flags(
    x: Tensor, ranks: Ranks, block: int, warps: int, pull: bool, pull_sums: bool, regs: int = 0
) -> Tensor:
    """Data as they are, and a flag when a program's have come: nothing to put back but flags."""
    words = as_words(x)
    out = torch.empty_like(words)
    count = words.shape[0]
    bound = {"maxnreg": regs} if regs else {}
    _by_flags[(triton.cdiv(count, block * ranks.world),)](
        words, out, *parameters(ranks), count, WORLD=ranks.world,
        PAIRS=x.dtype == torch.bfloat16, BLOCK=block, PULL=pull, PULL_SUMS=pull_sums,
        num_warps=warps, **bound, **OPTIONS,
    )  # fmt: skip
    return out.view(x.dtype).view(x.shape)


@triton.jit
def _by_flags(
    x, out, state, slabs, slab, buffer, capacity, count,
    WORLD: tl.constexpr, PAIRS: tl.constexpr, BLOCK: tl.constexpr, PULL: tl.constexpr,
    PULL_SUMS: tl.constexpr,
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
        half = capacity // 2
        data = slabs + buffer + 2 * FLAGS + here
        flags = slabs + buffer + tile
        own = rank.to(tl.int64) * slab
        for step in tl.static_range(WORLD - 1):
            piece = (rank + step + 1) % WORLD
            one = first + piece * BLOCK
            word = tl.load(x + one, one < count, other=0)
            if PULL:
                tl.store(data + own + piece * capacity, word, one < count)
            else:
                tl.store(data + piece.to(tl.int64) * slab + rank * capacity, word, one < count)
        _tell(flags + rank * capacity, slab, WORLD)
        _await_all(flags + own, capacity, state, rank, WORLD)
        mine = first + rank * BLOCK
        low, high = tl.full([BLOCK], 0, tl.float32), tl.full([BLOCK], 0, tl.float32)
        for source in tl.static_range(WORLD):
            if PULL:
                there = data + tl.cast(source, tl.int64) * slab + rank * capacity
            else:
                there = data + own + source * capacity
            there = tl.where(rank == source, x + mine, there)
            word = tl.load(there, mine < count, other=0, volatile=True)
            lower, upper = numbers(word, PAIRS)
            low += lower
            high += upper
        total = as_word(low, high, PAIRS)
        tl.store(out + mine, total, mine < count)
        if PULL_SUMS:
            tl.store(data + own + half + rank * capacity, total, mine < count)
        else:
            for step in tl.static_range(WORLD - 1):
                peer = ((rank + step + 1) % WORLD).to(tl.int64)
                tl.store(data + peer * slab + half + rank * capacity, total, mine < count)
        _tell(flags + FLAGS + rank * capacity, slab, WORLD)
        _await_all(flags + FLAGS + own, capacity, state, rank, WORLD)
        for step in tl.static_range(WORLD - 1):
            piece = (rank + step + 1) % WORLD
            one = first + piece * BLOCK
            if PULL_SUMS:
                there = data + piece.to(tl.int64) * slab + half + piece * capacity
            else:
                there = data + own + half + piece * capacity
            word = tl.load(there, one < count, other=0, volatile=True)
            tl.store(out + one, word, one < count)


@triton.jit
def _tell(place, slab, WORLD: tl.constexpr):
    """Store a flag into every rank's slab once all that this program has written can be seen."""
    tl.debug_barrier()
    tl.inline_asm_elementwise(
        """
        {
            .reg .pred one;
            .reg .b32 thread;
            .reg .b64 to;
            mov.u32 thread, %tid.x;
            setp.lt.u32 one, thread, $3;
            cvt.u64.u32 to, thread;
            mad.lo.s64 to, to, $2, $1;
            @one fence.acq_rel.sys;
            @one st.relaxed.sys.global.b32 [to], 1;
            mov.b32 $0, 0;
        }
        """,
        "=r,l,l,r",
        [place.to(tl.int64), slab.to(tl.int64) * 4, WORLD],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def _await_all(own, capacity, state, rank, WORLD: tl.constexpr):
    sources = tl.arange(0, WORLD)
    began, bound = globaltimer(), tl.load(state + 3).to(tl.int64) * 1000000
    late = rank - rank
    waiting = rank >= 0
    while waiting:
        got = tl.load(own + sources * capacity, volatile=True)
        late = lateness(tl.where(got == 0, sources + 1, 0), began, bound, state)
        waiting = (late > 0) & (late % 2 == 0)
    if late > 0:
        tl.store(state + 2, late // 2, tl.load(state + 2, volatile=True) == 0)
    tl.debug_barrier()
    tl.store(own + sources * capacity, tl.zeros([WORLD], tl.int32))


@triton.jit
def await_piece(place, state, source, there):
    began, bound = globaltimer(), tl.load(state + 3).to(tl.int64) * 1000000
    word = tl.full(there.shape, 0, tl.int32)
    late = source - source
    waiting = source >= 0
    while waiting:
        word = tl.load(place, there, other=0, volatile=True)
        missing = tl.where(there & (word == 0), source + 1, 0)
        late = lateness(missing, began, bound, state)
        waiting = (late > 0) & (late % 2 == 0)
    if late > 0:
        tl.store(state + 2, late // 2, tl.load(state + 2, volatile=True) == 0)
    return word


@triton.jit
def await_sums(own, capacity, state, rank, there, WORLD: tl.constexpr, PAIRS: tl.constexpr):
    began, bound = globaltimer(), tl.load(state + 3).to(tl.int64) * 1000000
    low, high = tl.full(there.shape, 0, tl.float32), tl.full(there.shape, 0, tl.float32)
    late = rank - rank
    waiting = rank >= 0
    while waiting:
        missing = tl.full(there.shape, 0, tl.int32)
        low, high = tl.full(there.shape, 0, tl.float32), tl.full(there.shape, 0, tl.float32)
        for source in tl.static_range(WORLD):
            word = tl.load(own + source * capacity, there, other=0, volatile=True)
            missing = tl.where(there & (word == 0), source + 1, missing)
            lower, upper = numbers(word, PAIRS)
            low += lower
            high += upper
        late = lateness(missing, began, bound, state)
        waiting = (late > 0) & (late % 2 == 0)
    if late > 0:
        tl.store(state + 2, late // 2, tl.load(state + 2, volatile=True) == 0)
    return low, high


@triton.jit
def _phase(
    x, out, state, slabs, slab, buffer, capacity, count,
    WORLD: tl.constexpr, PAIRS: tl.constexpr, BLOCK: tl.constexpr, QUADS: tl.constexpr,
    PHASE: tl.constexpr,
):  # fmt: skip
    """A phase alone, of which nobody waits for another: what it leaves in the slabs is no sum."""
    release()
    wait()
    rank, ranks = tl.load(state), tl.load(state + 1)
    tile, at = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    first = tile * (WORLD * BLOCK) + at
    here = tile * BLOCK + at
    if ranks > 1:
        place = slabs + buffer + rank * capacity + here
        own = slabs + rank.to(tl.int64) * slab + buffer + here
        mine = first + rank * BLOCK < count
        if PHASE == "push" or PHASE == "push weak":
            for step in tl.static_range(WORLD - 1):
                piece = (rank + step + 1) % WORLD
                one = first + piece * BLOCK
                word = tl.load(x + one, one < count, other=0)
                if PHASE == "push":
                    _send(place, slab, piece, word, one < count, PAIRS, QUADS)
                else:
                    tl.store(place + piece.to(tl.int64) * slab, word, one < count)
        elif PHASE == "sums":  # of what is there; without sending them
            low, high = tl.full([BLOCK], 0, tl.float32), tl.full([BLOCK], 0, tl.float32)
            for source in tl.static_range(WORLD):
                word = tl.load(own + source * capacity, mine, other=0, volatile=True)
                lower, upper = numbers(word, PAIRS)
                low += lower
                high += upper
            tl.debug_barrier()
            for source in tl.static_range(WORLD):
                tl.store(own + source * capacity, 0, mine)
            tl.store(out + first, as_word(low, high, PAIRS), mine)
        elif PHASE == "gather":  # of what is there
            half = capacity // 2
            for piece in tl.static_range(WORLD):
                one = first + piece * BLOCK
                sums = own + half + piece * capacity
                word = tl.load(sums, one < count, other=0, volatile=True)
                tl.store(out + one, word, one < count)
                tl.store(sums, 0, one < count)
        else:
            for step in tl.static_range(WORLD - 1):
                peer = (rank + step + 1) % WORLD
                one = first + peer * BLOCK
                there = slabs + peer.to(tl.int64) * slab + buffer + here + rank * capacity
                word = tl.load(there, one < count, other=0, volatile=True)
                tl.store(out + one, word, one < count)


@triton.jit
def _send(place, slab, peer, word, there, PAIRS: tl.constexpr, QUADS: tl.constexpr):
    word = tl.where(word == 0, MINUS_ZERO_PAIR if PAIRS else MINUS_ZERO, word)
    to = (place + tl.cast(peer, tl.int64) * slab).to(tl.int64)
    if QUADS:
        _store_quads(to, word, there)
    else:
        _store(to, word, there)


@triton.jit
def _store(place, word, there):
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
        [place, word, there.to(tl.int32)],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def _store_quads(place, word, there):
    """Four words of a thread at once where they lie side by side."""
    tl.inline_asm_elementwise(
        """
        {
            .reg .pred a, b, c, d, all, not;
            .reg .b64 to;
            setp.ne.s32 a, $12, 0;
            setp.ne.s32 b, $13, 0;
            setp.ne.s32 c, $14, 0;
            setp.ne.s32 d, $15, 0;
            and.b64 to, $4, 15;
            setp.eq.and.s64 all, to, 0, a;
            add.s64 to, $4, 4;
            setp.eq.and.s64 all, to, $5, all;
            add.s64 to, $4, 8;
            setp.eq.and.s64 all, to, $6, all;
            add.s64 to, $4, 12;
            setp.eq.and.s64 all, to, $7, all;
            and.pred all, all, b;
            and.pred all, all, c;
            and.pred all, all, d;
            not.pred not, all;
            and.pred a, a, not;
            and.pred b, b, not;
            and.pred c, c, not;
            and.pred d, d, not;
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
        [place, word, there.to(tl.int32)],
        dtype=tl.int32,
        is_pure=False,
        pack=4,
    )
