"""The union of attention's spans: alone, or as the beginning of the product that reads it.

Spans are united in ascending order, so that a row's bits depend on the keys it sees alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from parse_runtime.kernels.cuda.chain import OPTIONS, opaque, release, wait
from parse_runtime.kernels.cuda.early import append

UNITED, UNITE_WARPS = 32, 4
"""Spans that are united at a time: fixed, as the order of sums depends on it."""
FEW = 8
"""So many spans are united one after the other, in whichever kernel needs them."""
TOGETHER, PROGRAMS = 4, 2048
"""Heads that a program unites where there are more heads of rows than PROGRAMS."""


@dataclass(frozen=True)
class Partial:
    """Sums [T, heads, spans, head_dim] of spans of keys, not united yet.

    `tops` and `totals` [T, heads, spans] are a span's largest score and its sum of exponentials.
    Only what the last four say that a row sees has been written.
    """

    sums: Tensor
    tops: Tensor
    totals: Tensor
    keys: int
    span: int
    dtype: torch.dtype
    cuts: Tensor
    starts: Tensor
    ancestors: Tensor
    lows: Tensor | None

    @property
    def seen(self) -> tuple[Any, ...]:
        """What says which spans a row sees."""
        return self.cuts, self.starts, self.ancestors, self.lows, self.keys


@opaque
def unite(partial: Partial) -> Tensor:
    """[T, heads * head_dim] of partial sums."""
    count, heads, spans, head_dim = partial.sums.shape
    dtype, device = partial.dtype, partial.sums.device
    out = torch.empty(count, heads * head_dim, dtype=dtype, device=device)
    width = max(16, triton.next_power_of_2(head_dim))
    if spans <= FEW:
        together = TOGETHER if heads * count > PROGRAMS else 1
        _unite_few[triton.cdiv(heads, together), count](
            partial.sums, partial.tops, partial.totals, out, heads, *partial.seen,
            HEAD_DIM=head_dim, WIDTH=width, SPAN=partial.span, SPANS=spans, TOGETHER=together,
            num_warps=4, **OPTIONS,
        )  # fmt: skip
        return out
    _unite[heads, count](
        partial.sums, partial.tops, partial.totals, out, *partial.seen, spans,
        HEAD_DIM=head_dim, WIDTH=width, SPAN=partial.span, UNITED=UNITED,
        num_warps=UNITE_WARPS, **OPTIONS,
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["tops", "totals", "keys", "spans"])
def _unite(
    sums, tops, totals, out, cuts, starts, ancestors, lows, keys, spans,
    HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr, SPAN: tl.constexpr, UNITED: tl.constexpr,
):  # fmt: skip
    release()
    wait()
    token, head = tl.program_id(1), tl.program_id(0)
    cut = tl.minimum(tl.load(cuts + token).to(tl.int32), keys)
    start = tl.load(starts + token).to(tl.int32)
    end = tl.minimum(start + bit_length(tl.load(ancestors + token)), keys)
    if lows is not None:
        floor = tl.load(lows + token).to(tl.int32)
    place = (token.to(tl.int64) * tl.num_programs(0) + head) * spans
    d = tl.arange(0, WIDTH)
    top = float("-inf")
    total = 0.0
    acc = tl.zeros([WIDTH], tl.float32)
    for first in range(0, tl.cdiv(tl.maximum(cut, end), SPAN), UNITED):
        span = first + tl.arange(0, UNITED)
        left = span * SPAN
        # Only spans that this row sees: others were left unwritten, or say nothing.
        near = (start < left + SPAN) & (end > left) & (end > start)
        below = left < cut
        if lows is not None:
            below = tl.maximum(left, floor) < tl.minimum(left + SPAN, cut)
        seen = (span < spans) & (below | near)
        tops_ = tl.load(tops + place + span, seen, other=float("-inf"))
        new = tl.maximum(top, tl.max(tops_, 0))
        level = tl.where(new == float("-inf"), 0.0, new)
        weight = tl.exp2(tops_ - level)
        fade = tl.exp2(top - level)
        total = total * fade + tl.sum(weight * tl.load(totals + place + span, seen, other=0.0), 0)
        part = tl.load(
            sums + (place + span)[:, None] * HEAD_DIM + d,
            seen[:, None] & (d < HEAD_DIM)[None, :],
            other=0.0,
        )
        acc = acc * fade + tl.sum(part * weight[:, None], 0)
        top = new
    acc /= tl.where(total > 0, total, 1.0)
    place_out = (token.to(tl.int64) * tl.num_programs(0) + head) * HEAD_DIM
    tl.store(out + place_out + d, acc.to(out.dtype.element_ty), d < HEAD_DIM)


@triton.jit(do_not_specialize=["tops", "totals", "keys"])
def _unite_few(
    sums, tops, totals, out, heads, cuts, starts, ancestors, lows, keys,
    HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr, SPAN: tl.constexpr, SPANS: tl.constexpr,
    TOGETHER: tl.constexpr,
):  # fmt: skip
    release()
    wait()
    token = tl.program_id(1)
    element = tl.arange(0, TOGETHER * WIDTH)
    head, d = tl.program_id(0) * TOGETHER + element // WIDTH, element % WIDTH
    d = tl.where(head < heads, d, HEAD_DIM)
    place = token.to(tl.int64) * heads + head
    x = united(
        sums, tops, totals, place, d, token, cuts, starts, ancestors, lows, keys,
        HEAD_DIM, SPAN, SPANS,
    )  # fmt: skip
    tl.store(out + place * HEAD_DIM + d, x.to(out.dtype.element_ty), d < HEAD_DIM)


@triton.jit
def united(
    sums, tops, totals, place, d, token, cuts, starts, ancestors, lows, keys,
    HEAD_DIM: tl.constexpr, SPAN: tl.constexpr, SPANS: tl.constexpr,
):  # fmt: skip
    """Elements `d` of a token's heads, at `place`: spans in turn, so the same in every kernel."""
    cut = tl.minimum(tl.load(cuts + token).to(tl.int32), keys)
    start = tl.load(starts + token).to(tl.int32)
    end = tl.minimum(start + bit_length(tl.load(ancestors + token)), keys)
    floor = tl.load(lows + token).to(tl.int32) if lows is not None else 0
    top = tl.full(d.shape, float("-inf"), tl.float32)
    levels, weights, parts = (), (), ()
    for span in tl.static_range(SPANS):
        left = span * SPAN
        # Only spans that this row sees: others were left unwritten, or say nothing.
        near = (start < left + SPAN) & (end > left) & (end > start)
        below = tl.maximum(left, floor) < tl.minimum(left + SPAN, cut)
        seen = (below | near) & (d < HEAD_DIM)
        at = place * SPANS + span
        level = tl.load(tops + at, seen, other=float("-inf"))
        top = tl.maximum(top, level)
        levels = append(levels, level)
        weights = append(weights, tl.load(totals + at, seen, other=0.0))
        parts = append(parts, tl.load(sums + at * HEAD_DIM + d, seen, other=0.0))
    top = tl.where(top == float("-inf"), 0.0, top)
    total, acc = tl.zeros(d.shape, tl.float32), tl.zeros(d.shape, tl.float32)
    for span in tl.static_range(SPANS):
        fade = tl.exp2(levels[span] - top)
        total = tl.fma(fade, weights[span], total)
        acc = tl.fma(fade, parts[span], acc)
    return acc / tl.where(total > 0, total, 1.0)


@triton.jit
def bit_length(bits):
    """Bits of an int64 up to the highest that is set: 0 to 64."""
    bits = bits.to(tl.uint64, bitcast=True)
    length = (bits * 0).to(tl.int32)
    for power in tl.static_range(5, -1, -1):
        upper = bits >> (1 << power)
        length += tl.where(upper != 0, 1 << power, 0)
        bits = tl.where(upper != 0, upper, bits)
    return length + (bits != 0).to(tl.int32)
