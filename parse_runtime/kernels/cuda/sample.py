"""Sampling by Gumbel noise: many programs scan a row's chunks, one program a row decides.

The nucleus needs neither a sort nor a threshold. A token drawn from all tokens lies in the
nucleus where the tokens likelier than it weigh less than top_p; then it is also the nucleus' own
draw, as the same noise decides both. Else the nucleus lies among those likelier tokens: draw
again among them. (FlashInfer samples by rejection too, with fresh noise.)
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from parse_runtime.kernels.cuda.chain import OPTIONS, opaque, release, side_by_side, wait

CHUNK = 4096
"""Logits that one program scans first,"""
BLOCK, WARPS = 8192, 32
"""and those that the program which decides reads at a time."""


@opaque
def launch(
    logits: Tensor, temperature: Tensor, top_p: Tensor, seeds: Tensor, positions: Tensor,
    plan: Tensor | None = None, max_len: int = 0,
) -> Tensor:  # fmt: skip
    """`parse_runtime.kernels.sample.sample`; with a plan, `sample_and_step`."""
    count, vocabulary = logits.shape
    chunks = triton.cdiv(vocabulary, CHUNK)
    temperature, top_p, seeds, positions = side_by_side(temperature, top_p, seeds, positions)
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    found = torch.empty(3, count, chunks, dtype=torch.float32, device=logits.device)
    ids = torch.empty(count, chunks, dtype=torch.int32, device=logits.device)
    token = torch.empty(count, dtype=torch.int64, device=logits.device)
    each = count // temperature.shape[0]
    _scan[chunks, count](
        logits, temperature, seeds, positions, found[0], found[1], found[2], ids, each,
        logits.stride(0), vocabulary, CHUNK=CHUNK, num_warps=8, **OPTIONS,
    )  # fmt: skip
    _decide[(count,)](
        logits, temperature, top_p, seeds, positions, found[0], found[1], found[2], ids, token,
        token if plan is None else plan, max_len, each, logits.stride(0), vocabulary, chunks,
        STEP=plan is not None, BLOCK=BLOCK, CHUNKS=triton.next_power_of_2(chunks),
        num_warps=WARPS, **OPTIONS,
    )  # fmt: skip
    return token


# Where a part of a buffer begins depends on the number of rows, and would choose other code.
@triton.jit(do_not_specialize=["weights", "bests", "positions", "each"])
def _scan(
    logits, temperature, seeds, positions, tops, weights, bests, ids, each,
    stride, vocabulary, CHUNK: tl.constexpr,
):  # fmt: skip
    """A chunk's largest score, its weight exp(score - largest), and its best noisy score."""
    release()
    wait()
    chunk, row = tl.program_id(0), tl.program_id(1)
    heat = tl.load(temperature + row // each)
    token = chunk * CHUNK + tl.arange(0, CHUNK)
    there = token < vocabulary
    x = tl.load(logits + row.to(tl.int64) * stride + token, there, other=float("-inf"))
    x = x.to(tl.float32)
    place = row * tl.num_programs(0) + chunk
    if heat > 0:
        x = x / heat
        top = tl.max(x, 0)
        tl.store(tops + place, top)
        tl.store(weights + place, tl.sum(tl.where(there, tl.exp(x - top), 0.0), 0))
        low, key = _row_key(seeds + row // each, positions + row)
        x = tl.where(there, x + _gumbel(token, low, key), float("-inf"))
    best, index = tl.max(x, 0, return_indices=True)
    tl.store(bests + place, best)
    # Where logits are NaN the largest may be one that is not there.
    tl.store(ids + place, tl.minimum(chunk * CHUNK + index, vocabulary - 1))


@triton.jit(do_not_specialize=["weights", "bests", "positions", "top_p", "each"])
def _decide(
    logits, temperature, top_p, seeds, positions, tops, weights, bests, ids, out, plan, max_len,
    each, stride, vocabulary, chunks, STEP: tl.constexpr, BLOCK: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    release()
    wait()
    row = tl.program_id(0)
    logits += row.to(tl.int64) * stride
    chunk = tl.arange(0, CHUNKS)
    there = chunk < chunks
    place = row * chunks + chunk
    _, index = tl.max(tl.load(bests + place, there, other=float("-inf")), 0, return_indices=True)
    token = tl.load(ids + row * chunks + tl.minimum(index, chunks - 1))
    heat, mass = tl.load(temperature + row // each), tl.load(top_p + row // each)
    if (heat > 0) & (mass < 1):
        top_of = tl.load(tops + place, there, other=float("-inf"))
        top = tl.max(top_of, 0)
        weight = tl.load(weights + place, there, other=0.0)
        allowed = mass * tl.sum(weight * tl.exp(top_of - top), 0)
        low, key = _row_key(seeds + row // each, positions + row)
        level = tl.load(logits + token).to(tl.float32) / heat
        while _weight_above(logits, level, heat, top, vocabulary, BLOCK) >= allowed and level < top:
            token = _draw_above(logits, level, heat, low, key, vocabulary, BLOCK)
            level = tl.load(logits + token).to(tl.float32) / heat
    tl.store(out + row, token.to(tl.int64))
    if STEP:
        # Other threads of the program may still read the position.
        tl.debug_barrier()
        count = tl.num_programs(0)
        going = tl.load(plan + 2 * count + row) < max_len
        tl.store(plan + row, token.to(tl.int64), going)
        for part in tl.static_range(1, 5):
            place = plan + part * count + row
            tl.store(place, tl.load(place) + 1, going)


@triton.jit
def _weight_above(logits, level, heat, top, vocabulary, BLOCK: tl.constexpr):
    """Weight exp(score - top) of the tokens whose score is above the level."""
    weight = tl.zeros([BLOCK], tl.float32)
    for first in range(0, vocabulary, BLOCK):
        token = first + tl.arange(0, BLOCK)
        x = tl.load(logits + token, token < vocabulary, other=float("-inf")).to(tl.float32) / heat
        weight += tl.where(x > level, tl.exp(x - top), 0.0)
    return tl.sum(weight, 0)


@triton.jit
def _draw_above(logits, level, heat, low, key, vocabulary, BLOCK: tl.constexpr):
    """The token of the best noisy score among those whose score is above the level."""
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    chosen = tl.full([BLOCK], 2147483647, tl.int32)
    for first in range(0, vocabulary, BLOCK):
        token = first + tl.arange(0, BLOCK)
        x = tl.load(logits + token, token < vocabulary, other=float("-inf")).to(tl.float32) / heat
        if tl.max(x, 0) > level:
            noisy = tl.where(x > level, x + _gumbel(token, low, key), float("-inf"))
            better = noisy > best
            chosen = tl.where(better, token, chosen)
            best = tl.where(better, noisy, best)
    return tl.min(tl.where(best == tl.max(best, 0), chosen, 2147483647), 0)


@triton.jit
def _row_key(seed, position):
    seed, position = tl.load(seed), tl.load(position)
    low = _mix(_mix(seed.to(tl.uint32)) ^ (seed >> 32).to(tl.uint32))
    return low, _mix(low ^ position.to(tl.uint32))


@triton.jit
def _gumbel(token, low, key):
    """`parse_runtime.kernels.sample.gumbel` of some tokens."""
    hashed = _mix(_mix(token.to(tl.uint32) + key) ^ low)
    u = (hashed.to(tl.float32) + 0.5) * 2.3283064365386963e-10
    rate = tl.where(u < 0.00390625, u * (1 + u * (0.5 + u / 3)), -tl.log(1 - u))
    return -tl.log(rate)


@triton.jit
def _mix(x):
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)
