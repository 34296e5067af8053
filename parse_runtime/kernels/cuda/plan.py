"""Numbers of rows: a program has some of them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from parse_runtime.kernels.cuda.chain import OPTIONS, opaque, release, side_by_side, wait

BLOCK, WARPS = 128, 1
"""Rows of a program."""


@opaque
def launch_places(rows: Tensor, slots: Tensor, length: int) -> Tensor:
    """`parse_runtime.kernels.plan.places_of`."""
    rows, slots = side_by_side(rows, slots)
    count, found = rows.shape[0], torch.empty_like(rows)
    _places[(triton.cdiv(count, BLOCK),)](
        rows, slots, found, count, count // slots.shape[0], length, BLOCK=BLOCK, num_warps=WARPS,
        **OPTIONS,
    )  # fmt: skip
    return found


@opaque
def launch_windowed(
    positions: Tensor, rows: Tensor, starts: Tensor, window: int
) -> tuple[Tensor, Tensor]:
    """`parse_runtime.kernels.plan.windowed`."""
    count, found = rows.shape[0], rows.new_empty(2, rows.shape[0])
    _windowed[(triton.cdiv(count, BLOCK),)](
        *side_by_side(positions, rows, starts), found, count, window, BLOCK=BLOCK, num_warps=WARPS,
        **OPTIONS,
    )  # fmt: skip
    return found[0], found[1]


@opaque
def launch_following(
    tokens: Tensor, rows: Tensor, max_len: int, ends: tuple[Tensor, Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """`parse_runtime.kernels.plan.following`."""
    count, found = rows.shape[0], rows.new_empty(2, rows.shape[0])
    known = side_by_side(*ends) if ends else [None] * 3
    _following[(triton.cdiv(count, BLOCK),)](
        *side_by_side(tokens, rows), *known, found, count, ends[0].shape[0] if ends else 0, max_len,
        BLOCK=BLOCK, num_warps=WARPS, **OPTIONS,
    )  # fmt: skip
    return found[0], found[1]


@triton.jit(do_not_specialize=["rows", "slots", "count", "each", "length"])
def _places(rows, slots, found, count, each, length, BLOCK: tl.constexpr):
    release()
    wait()
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = at < count
    slot = tl.load(slots + at // each, there, other=0)
    tl.store(found + at, tl.load(rows + at, there) + slot * length, there)


@triton.jit(do_not_specialize=["positions", "rows", "starts", "count", "window"])
def _windowed(positions, rows, starts, found, count, window, BLOCK: tl.constexpr):
    release()
    wait()
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = at < count
    low = tl.maximum(tl.load(positions + at, there) - (window - 1), 0)
    own = tl.load(rows + at, there) - (window - 1)
    tl.store(found + at, low, there)
    tl.store(found + count + at, tl.maximum(tl.load(starts + at, there), own), there)


@triton.jit(
    do_not_specialize=["tokens", "rows", "wanted", "after", "sampled", "count", "ends", "max_len"]
)
def _following(
    tokens, rows, wanted, after, sampled, found, count, ends, max_len, BLOCK: tl.constexpr
):  # fmt: skip
    release()
    wait()
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = at < count
    token = tl.load(tokens + (at + 1) % count, there)
    if wanted is not None:
        for end in range(0, ends):
            given = tl.load(after + end)
            given = tl.where(given < 0, tl.load(sampled + end), given)
            token = tl.where(at == tl.load(wanted + end), given, token)
    tl.store(found + at, token, there)
    tl.store(found + count + at, tl.minimum(tl.load(rows + at, there), max_len), there)
