"""The memory plan: an offset for every buffer, shared where lifetimes do not overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64
"""Bytes; what torch's own CPU allocator gives, so that vector loops take the same path."""


@dataclass(frozen=True)
class Lifetime:
    """A buffer of `nbytes` that must keep its bytes from node `first` to node `last`, inclusive."""

    nbytes: int
    first: int
    last: int


@dataclass(frozen=True)
class Plan:
    """`offsets[i]` belongs to the i-th lifetime; all lie below `size` bytes."""

    offsets: tuple[int, ...]
    size: int


def align(nbytes: int, alignment: int = ALIGNMENT) -> int:
    """`nbytes` rounded up to a multiple of `alignment`."""
    return -(-nbytes // alignment) * alignment


def plan(lifetimes: Sequence[Lifetime]) -> Plan:
    """Greedy best fit by size: the largest buffer first, each into the tightest hole that fits.

    Depends on nothing but the lifetimes, so one program always gets one layout.
    """
    count = len(lifetimes)
    sizes = np.array([align(x.nbytes) for x in lifetimes], dtype=np.int64)
    first = np.array([x.first for x in lifetimes], dtype=np.int64)
    last = np.array([x.last for x in lifetimes], dtype=np.int64)
    offsets = np.zeros(count, dtype=np.int64)
    placed = np.zeros(count, dtype=bool)
    for i in np.lexsort((np.arange(count), first, -sizes)):
        alive = placed & (first <= last[i]) & (last >= first[i]) & (sizes > 0)
        offsets[i] = _best_fit(offsets[alive], sizes[alive], int(sizes[i]))
        placed[i] = True
    size = int((offsets + sizes).max()) if count else 0
    return Plan(tuple(int(x) for x in offsets), size)


def _best_fit(offsets: NDArray[np.int64], sizes: NDArray[np.int64], wanted: int) -> int:
    best, best_hole, end = -1, 0, 0
    for j in np.argsort(offsets, kind="stable"):
        hole = int(offsets[j]) - end
        if hole >= wanted and (best < 0 or hole < best_hole):
            best, best_hole = end, hole
        end = max(end, int(offsets[j] + sizes[j]))
    return end if best < 0 else best
