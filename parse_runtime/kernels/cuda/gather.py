"""Rows and elements by their index: a program moves a part of a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from foundryc.ranks import Ranks
from parse_runtime.kernels.cuda.chain import OPTIONS, opaque, release, wait

MOST, FEW = 1024, 128
"""Elements that a program moves at most, of a row or by themselves."""


@opaque
def launch_rows_at(
    table: Tensor, index: Tensor, first: int = 0, ranks: Ranks | None = None
) -> Tensor:
    """`parse_runtime.kernels.gather.rows_at`; with `ranks` their `own_rows`."""
    found = table.new_empty(first + index.shape[0], *table.shape[1:])
    words, own = (None, 0) if ranks is None else (ranks.words, table.shape[0])
    _move([table], index, found, None, first, words, own)
    return found


@opaque
def launch_put_rows(table: Tensor, index: Tensor, rows: Tensor) -> None:
    """`parse_runtime.kernels.gather.put_rows`, of a table that is contiguous."""
    _move([rows.contiguous()], None, table, index)


@opaque
def launch_widened(x: Tensor) -> Tensor:
    """`parse_runtime.kernels.gather.widened`."""
    if x.dtype == torch.float32:
        return x
    found = torch.empty_like(x, dtype=torch.float32)
    _move([x.contiguous()], None, found, None)
    return found


@opaque
def launch_columns(parts: Tensor, width: int) -> Tensor:
    """`parse_runtime.kernels.ranks.side_by_side` of [ranks, T, N] that all have."""
    _, count, columns = parts.shape
    found = parts.new_empty(count, width)
    # Odd numbers of bfloat16 come with half a word between one rank's and the next one's.
    _columns[count, triton.cdiv(width, MOST)](
        parts, found, parts.stride(0), columns, width, BLOCK=MOST, num_warps=4, **OPTIONS
    )
    return found


@opaque
def launch_summed(parts: Tensor) -> Tensor:
    """`parse_runtime.kernels.ranks.summed` of contiguous [ranks, ...] that all have."""
    found = torch.empty(parts.shape[1:], dtype=torch.float32, device=parts.device)
    _summed[(triton.cdiv(found.numel(), FEW),)](
        parts, found, found.numel(), RANKS=parts.shape[0], BLOCK=FEW, num_warps=1, **OPTIONS
    )
    return found


@opaque
def launch_first(words: Tensor, size: int) -> Tensor:
    """`parse_runtime.kernels.ranks.first_of`, of a rank's words."""
    found = torch.empty(1, dtype=torch.int64, device=words.device)
    _first[(1,)](words, found, size, num_warps=1, **OPTIONS)
    return found


@opaque
def launch_chained(first: Tensor, second: Tensor, repeat: int) -> Tensor:
    """`parse_runtime.kernels.gather.chained`."""
    found = first.new_empty(first.shape[0] + second.shape[0] * repeat, *first.shape[1:])
    width, total = first[0].numel(), found.numel()
    _chained[(triton.cdiv(total, MOST),)](
        first.contiguous(), second.contiguous(), found, first.numel(), width * repeat, width, total,
        **_sizes(MOST), **OPTIONS,
    )  # fmt: skip
    return found


@opaque
def launch_joined(parts: Sequence[Tensor], index: Tensor | None) -> Tensor:
    """`parse_runtime.kernels.gather.joined`."""
    rows, width = parts[0].shape
    found = parts[0].new_empty(rows if index is None else index.shape[0], len(parts) * width)
    _move([part.contiguous() for part in parts], index, found, None)
    return found


@opaque
def launch_elements_at(x: Tensor, index: Tensor) -> Tensor:
    """`parse_runtime.kernels.gather.elements_at`."""
    count, length = index.shape[-1], x.shape[-1]
    found = x.new_empty(*x.shape[:-1], count)
    _elements[found.numel() // count, triton.cdiv(count, FEW)](
        x.contiguous(), index.contiguous(), found, index.numel() // count, length, count,
        BLOCK=FEW, num_warps=1, **OPTIONS,
    )  # fmt: skip
    return found


def _move(
    parts: Sequence[Tensor], index: Tensor | None, found: Tensor, place: Tensor | None,
    leading: int = 0, words: Tensor | None = None, own: int = 0,
) -> None:  # fmt: skip
    """Rows at `index` of the parts, side by side, become those at `place` of `found`."""
    count = (parts[0] if place is not None else found).shape[0]
    width = parts[0][0].numel()
    first, second, third = [*parts, parts[0], parts[0]][:3]
    _rows[count, triton.cdiv(width, MOST), len(parts)](
        first, second, third, None if index is None else index.contiguous(), found,
        None if place is None else place.contiguous(), words, width, leading, own,
        PARTS=len(parts), **_sizes(width), **OPTIONS,
    )  # fmt: skip


def _sizes(width: int) -> dict[str, Any]:
    block = min(triton.next_power_of_2(width), MOST)
    return {"BLOCK": block, "num_warps": max(block // 256, 1)}


@triton.jit(do_not_specialize=["index", "place", "leading", "own"])
def _rows(
    first, second, third, index, found, place, words, width, leading, own,
    PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """With `words`, a rank's, the table has the `own` rows of that rank, and others are zero."""
    release()
    wait()
    row, part = tl.program_id(0), tl.program_id(2)
    if PARTS > 1:
        first = tl.where(part == 1, second, tl.where(part == 2, third, first))
    come, there = row.to(tl.int64), True
    if index is not None:
        behind = row - leading
        come = tl.where(behind < 0, come, leading + tl.load(index + behind, behind >= 0, other=0))
    if words is not None:
        come -= tl.load(words).to(tl.int64) * own
        there = (come >= 0) & (come < own)
    to = row.to(tl.int64) if place is None else tl.load(place + row)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(first + come * width + at, (at < width) & there, other=0)
    tl.store(found + (to * PARTS + part) * width + at, x, at < width)


@triton.jit
def _columns(parts, found, stride, columns, width, BLOCK: tl.constexpr):
    release()
    wait()
    row, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    come = (at // columns).to(tl.int64) * stride + row * columns + at % columns
    x = tl.load(parts + come, at < width, other=0)
    tl.store(found + row * width + at, x, at < width)


@triton.jit(do_not_specialize=["count"])
def _summed(parts, found, count, RANKS: tl.constexpr, BLOCK: tl.constexpr):
    release()
    wait()
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for rank in tl.static_range(RANKS):
        total += tl.load(parts + rank * count + at, at < count, other=0.0).to(tl.float32)
    tl.store(found + at, total, at < count)


@triton.jit(do_not_specialize=["size"])
def _first(words, found, size):
    release()
    wait()
    tl.store(found, tl.load(words).to(tl.int64) * size)


@triton.jit(do_not_specialize=["own", "repeated", "total"])
def _chained(first, second, found, own, repeated, width, total, BLOCK: tl.constexpr):
    release()
    wait()
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    behind = at - own
    come = behind // repeated * width + behind % width
    there = at < total
    x = tl.load(first + at, there & (behind < 0), other=0)
    y = tl.load(second + come, there & (behind >= 0), other=0)
    tl.store(found + at, tl.where(behind < 0, x, y), there)


@triton.jit(do_not_specialize=["x", "index", "sets", "length", "count"])
def _elements(x, index, found, sets, length, count, BLOCK: tl.constexpr):
    """A program a row and some elements; rows have the `sets` of indices in turn."""
    release()
    wait()
    row, at = tl.program_id(0), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    place = tl.load(index + row % sets * count + at, at < count, other=0)
    value = tl.load(x + row.to(tl.int64) * length + place, at < count)
    tl.store(found + row.to(tl.int64) * count + at, value, at < count)
