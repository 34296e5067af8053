"""Evidence of a verification in two kernels: which tokens are asked about, and sums by cut.

What they read and write is small; in torch it took some sixty kernels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from parse_runtime.kernels.cuda.chain import OPTIONS, opaque, release, side_by_side, wait

ROWS, BLOCK, WARPS = 16, 256, 4
SCOPES = 4
"""A power of two, no less than there are."""


@opaque
def launch_least_sure(
    draft: Tensor, segments: Tensor, cuts: int, count: int
) -> tuple[Tensor, Tensor]:
    """`parse_runtime.kernels.evidence.least_sure`; of equal tokens the earlier one."""
    drafts, tokens = draft.shape
    asked = torch.empty(drafts, count, dtype=torch.int64, device=draft.device)
    place = torch.empty(drafts, tokens, dtype=torch.int64, device=draft.device)
    _least_sure[triton.cdiv(tokens, ROWS), drafts](
        *side_by_side(draft, segments), asked, place, cuts, count, tokens,
        ROWS=ROWS, BLOCK=BLOCK, num_warps=WARPS, **OPTIONS,
    )  # fmt: skip
    return asked, place


@opaque
def launch_by_cut(
    chosen: Tensor, said: tuple[Tensor, Tensor, Tensor], place: Tensor, tokens: Tensor,
    draft: Tensor, numbers: Tensor, segments: Tensor, carried: Tensor, unlikely: float,
) -> Tensor:  # fmt: skip
    """`parse_runtime.kernels.evidence.by_cut`."""
    drafts, cuts, _ = chosen.shape
    scopes, statistics = carried.shape[1:]
    width = 1 + scopes * (statistics + 1)
    found = torch.empty(drafts, cuts, width, dtype=torch.float32, device=chosen.device)
    _by_cut[cuts, drafts](
        *side_by_side(chosen, *said, place, tokens, draft, numbers, segments, carried), found,
        tokens.shape[1], said[0].shape[1], unlikely, scopes, statistics,
        SCOPES=SCOPES, BLOCK=BLOCK, num_warps=WARPS, **OPTIONS,
    )  # fmt: skip
    return found


@triton.jit
def _sureness(draft, segments, at, count, cuts):
    """Those of no segment are surer than any probability; what is no number, as unsure as any."""
    there = at < count
    x = tl.load(draft + at, there, other=1.0)
    x = tl.where(x == x, x, float("-inf"))
    return tl.where(tl.load(segments + at, there, other=cuts) < cuts, x, 1.0)


@triton.jit(do_not_specialize=["cuts", "wanted", "count"])
def _least_sure(
    draft, segments, asked, place, cuts, wanted, count,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    release()
    wait()
    draft += tl.program_id(1) * count
    segments += tl.program_id(1) * count
    asked += tl.program_id(1) * wanted
    place += tl.program_id(1) * count
    own = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    value = _sureness(draft, segments, own, count, cuts)[:, None]
    rank = tl.zeros((ROWS,), tl.int32)
    for first in range(0, count, BLOCK):
        at = first + tl.arange(0, BLOCK)
        other = _sureness(draft, segments, at, count, cuts)[None]
        before = (other < value) | ((other == value) & (at[None] < own[:, None]))
        rank += tl.sum((before & (at < count)[None]).to(tl.int32), 1)
    found = (rank < wanted) & (own < count)
    tl.store(asked + rank, own.to(tl.int64), found)
    tl.store(place + own, tl.where(found, rank, -1).to(tl.int64), own < count)


@triton.jit(do_not_specialize=["count", "some"])
def _by_cut(
    chosen, own, entropy, choices, place, tokens, draft, numbers, segments, carried, found,
    count, some, unlikely, scopes, statistics,
    SCOPES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program a cut; a row of its accumulators for each scope, in the order of SCOPES."""
    release()
    wait()
    cut, number = tl.program_id(0), tl.program_id(1)
    own += number * some
    entropy += number * some
    choices += number * some
    place += number * count
    tokens += number * count
    draft += number * count
    numbers += number * count
    segments += number * count
    carried += number * scopes * statistics
    chosen += number * tl.num_programs(0) * 2
    found += number * tl.num_programs(0) * (1 + scopes * (statistics + 1))
    scope = tl.arange(0, SCOPES)
    inside_segment, digits = scope[:, None] == 1, scope[:, None] == 2
    total = tl.zeros((SCOPES, BLOCK), tl.float32)
    unlike_total = tl.zeros((SCOPES, BLOCK), tl.float32)
    unlikely_total = tl.zeros((SCOPES, BLOCK), tl.float32)
    own_total = tl.zeros((SCOPES, BLOCK), tl.float32)
    entropy_total = tl.zeros((SCOPES, BLOCK), tl.float32)
    draft_total = tl.zeros((SCOPES, BLOCK), tl.float32)
    least = tl.zeros((SCOPES, BLOCK), tl.float32)
    for first in range(0, count, BLOCK):
        at = first + tl.arange(0, BLOCK)
        there = at < count
        segment = tl.load(segments + at, there, other=0)
        where = tl.load(place + at, there, other=-1)
        thought = tl.load(draft + at, there, other=0.0)
        asked = where >= 0
        said = tl.where(asked, tl.load(own + where, asked, other=0.0), thought)
        unsure = tl.load(entropy + where, asked, other=0.0)
        choice = tl.load(choices + where, asked, other=0)
        unlike = asked & (choice != tl.load(tokens + at, there, other=0))
        rare = asked & (tl.exp(said) < unlikely)
        digit = tl.load(numbers + at, there, other=0) != 0
        counted = (there & (segment <= cut))[None]
        counted = counted & ((segment == cut)[None] | (inside_segment == 0))
        counted = counted & (digit[None] | (digits == 0))
        total += tl.where(counted, 1.0, 0.0)
        unlike_total += tl.where(counted & unlike[None], 1.0, 0.0)
        unlikely_total += tl.where(counted & rare[None], 1.0, 0.0)
        own_total += tl.where(counted, said[None], 0.0)
        entropy_total += tl.where(counted, unsure[None], 0.0)
        draft_total += tl.where(counted, thought[None], 0.0)
        least = tl.minimum(least, tl.where(counted, said[None], 0.0))
    # A segment that is not the first one goes on from nothing.
    before = (scope < scopes) & ((scope != 1) | (cut == 0))
    known = carried + scope * statistics
    count_of = tl.sum(total, 1) + tl.load(known, before, other=0.0)
    own_of = tl.sum(own_total, 1) + tl.load(known + 3, before, other=0.0)
    least_of = tl.minimum(tl.min(least, 1), tl.load(known + 6, before, other=0.0))
    columns = statistics + 1
    row = found + cut * (1 + scopes * columns)
    to, there = row + 1 + scope * columns, scope < scopes
    tl.store(to, count_of, there)
    tl.store(to + 1, tl.sum(unlike_total, 1) + tl.load(known + 1, before, other=0.0), there)
    tl.store(to + 2, tl.sum(unlikely_total, 1) + tl.load(known + 2, before, other=0.0), there)
    tl.store(to + 3, own_of, there)
    tl.store(to + 4, tl.sum(entropy_total, 1) + tl.load(known + 4, before, other=0.0), there)
    tl.store(to + 5, tl.sum(draft_total, 1) + tl.load(known + 5, before, other=0.0), there)
    tl.store(to + 6, least_of, there)
    tl.store(to + 7, own_of / tl.maximum(count_of, 1.0), there)
    odds = tl.load(chosen + cut * 2) - tl.load(chosen + cut * 2 + 1)
    tl.store(row, odds)
