"""Which experts a row goes to, and the pairs of row and expert in the order of experts."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from parse_runtime.kernels.cuda.chain import OPTIONS, release, wait
from parse_runtime.kernels.cuda.stream import sum_parts

CHUNK = 64


FOREIGN = tl.constexpr(1 << 29)
"""In place of an expert: one that other ranks have."""
_NO_PAIR = tl.constexpr(1 << 30)


def route(
    parts: Tensor, dtype: torch.dtype, top_k: int, normalize: bool, own: int = 0,
    first: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`parse_runtime.kernels.experts.route` of scores given as parts [S, T, E]; int32 experts.

    The scores are rounded to `dtype`, as a router in torch has them. With `first`, int64 [1],
    experts count from there on, and those that are not among the next `own` weigh nothing.
    """
    spans, count, number = parts.shape
    weights = torch.empty(count, top_k, dtype=torch.float32, device=parts.device)
    chosen = torch.empty(count, top_k, dtype=torch.int32, device=parts.device)
    _route[(count,)](
        parts, weights, chosen, number, first, own, SPANS=spans, TOP=top_k, NORMALIZE=normalize,
        WIDTH=triton.next_power_of_2(number), ROUNDED=_TYPES[dtype], num_warps=1, **OPTIONS,
    )  # fmt: skip
    return weights, chosen


def group(chosen: Tensor, number: int, rows: int) -> tuple[Tensor, Tensor]:
    """Pairs int32 [P] sorted by expert, and blocks int32 [3, B] of up to `rows` pairs.

    A block is an expert, or -1 where it is not needed, and its first and last + 1 place in the
    order. Equal experts keep the order of their rows; pairs of FOREIGN ones are last, in no block.
    """
    pairs = chosen.numel()
    count = (pairs + (rows - 1) * min(number, pairs)) // rows
    order = torch.empty(pairs, dtype=torch.int32, device=chosen.device)
    blocks = torch.empty(3, count, dtype=torch.int32, device=chosen.device)
    _group[(triton.cdiv(pairs, CHUNK) + 1,)](
        chosen, order, blocks, pairs, count, number, ROWS=rows,
        EXPERTS=triton.next_power_of_2(number), CHUNK=CHUNK, num_warps=4, **OPTIONS,
    )  # fmt: skip
    return order, blocks


_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@triton.jit
def _route(
    parts, weights, chosen, number, first, own, SPANS: tl.constexpr, TOP: tl.constexpr,
    NORMALIZE: tl.constexpr, WIDTH: tl.constexpr, ROUNDED: tl.constexpr,
):  # fmt: skip
    release()
    wait()
    row, expert = tl.program_id(0), tl.arange(0, WIDTH)
    there = expert < number
    score = sum_parts(parts + row * number + expert, there, tl.num_programs(0) * number, SPANS)
    score = tl.where(there, score.to(ROUNDED).to(tl.float32), float("-inf"))
    weight = tl.exp(score - tl.max(score, 0))
    weight /= tl.sum(weight, 0)
    left, mass = tl.where(there, weight, -1.0), 0.0
    slot = tl.arange(0, triton.next_power_of_2(TOP))
    found = tl.zeros((triton.next_power_of_2(TOP),), tl.float32)
    where = tl.zeros((triton.next_power_of_2(TOP),), tl.int32)
    for j in tl.static_range(TOP):
        best, index = tl.max(left, 0, return_indices=True)
        found = tl.where(slot == j, best, found)
        where = tl.where(slot == j, index, where)
        mass += best
        left = tl.where(expert == index, -1.0, left)
    if NORMALIZE:
        found /= mass
    if first is not None:
        where -= tl.load(first).to(tl.int32)
        mine = (where >= 0) & (where < own)
        where = tl.where(mine, where, FOREIGN)
        found = tl.where(mine, found, 0.0)
    tl.store(chosen + row * TOP + slot, where, slot < TOP)
    tl.store(weights + row * TOP + slot, found, slot < TOP)


@triton.jit
def _group(
    chosen, order, blocks, pairs, count, number,
    ROWS: tl.constexpr, EXPERTS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    release()
    wait()
    if tl.program_id(0) == tl.num_programs(0) - 1:
        _blocks(chosen, blocks, pairs, count, ROWS, EXPERTS, CHUNK)
    else:
        pair = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
        own = tl.load(chosen + pair, pair < pairs, other=_NO_PAIR)
        place = tl.zeros((CHUNK,), tl.int32)
        for start in range(0, pairs, CHUNK):
            other = start + tl.arange(0, CHUNK)
            theirs = tl.load(chosen + other, other < pairs, other=_NO_PAIR)[None, :]
            equal = (theirs == own[:, None]) & (other[None, :] < pair[:, None])
            before = (theirs < own[:, None]) | equal
            place += tl.sum(before.to(tl.int32), 1)
        tl.store(order + place, pair, pair < pairs)


@triton.jit
def _blocks(
    chosen, blocks, pairs, count,
    ROWS: tl.constexpr, EXPERTS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    expert = tl.arange(0, EXPERTS)
    size = tl.zeros((EXPERTS,), tl.int32)
    for start in range(0, pairs, CHUNK):
        pair = start + tl.arange(0, CHUNK)
        theirs = tl.load(chosen + pair, pair < pairs, other=-1)
        size += tl.sum((theirs[:, None] == expert[None, :]).to(tl.int32), 0)
    first = tl.cumsum(size, 0) - size
    needed = (size + ROWS - 1) // ROWS
    end = tl.cumsum(needed, 0)
    for start in range(0, count, CHUNK):
        block = start + tl.arange(0, CHUNK)
        owner = tl.sum((end[None, :] <= block[:, None]).to(tl.int32), 1)
        mine = expert[None, :] == owner[:, None]
        within = first[None, :] + (block[:, None] - (end - needed)[None, :]) * ROWS
        begin = tl.sum(tl.where(mine, within, 0), 1)
        stop = tl.sum(tl.where(mine, (first + size)[None, :], 0), 1)
        tl.store(blocks + block, tl.where(owner < EXPERTS, owner, -1), block < count)
        tl.store(blocks + count + block, begin, block < count)
        tl.store(blocks + 2 * count + block, tl.minimum(stop, begin + ROWS), block < count)
