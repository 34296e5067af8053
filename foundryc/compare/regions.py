"""Regions of three captures side by side: which of them a word points into, if any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foundryc.capture import Capture, RegionImage
from foundryc.template import GraphTable, Words

Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Audit = npt.NDArray[np.int16]
"""Numbers of regions, as many as a bundle may have; -1 for none."""

_SPAN = 1 << 42
"""Foreign regions begin at a multiple of this, behind the arena and at least this far from it."""
_PAGE = 2 << 20
"""Bytes that are mapped at a time, on the device; large pages of the host have as many."""
_ALIGNMENTS = (_PAGE, 256, 16)
"""Bytes: of a page, of what the driver gives out, of what a bundle may hold."""
_NOWHERE = np.uint64(1 << 63)
"""No program's memory begins there."""


@dataclass(frozen=True, eq=False)
class Regions:
    """All regions, by number; `bases` is uint64 [3, n], a row a capture."""

    names: tuple[str, ...]
    sizes: Words
    bases: Words
    placed: Words
    """Where each lies in the bundle: part of the arena where they were, foreign ones in a row."""
    mapped: tuple[Words, ...]
    """Of each capture's process uint64 [n, 2], by address: where what it had mapped begins and
    ends."""

    @classmethod
    def of(cls, captures: Sequence[Capture]) -> Regions:
        """From three captures, whose regions have the same names and sizes."""
        first = captures[0].regions
        every = [capture.regions for capture in captures]
        bases = np.array([[image.base for image in images] for images in every], np.uint64)
        return cls(
            tuple(image.name for image in first),
            np.array([image.size for image in first], np.uint64),
            bases.reshape(len(captures), len(first)),
            np.array(_placed(every), np.uint64),
            tuple(
                np.array(sorted(capture.mapped), np.uint64).reshape(-1, 2) for capture in captures
            ),
        )

    @property
    def moved(self) -> Mask:
        """Which do not lie at one address in all captures, bool [n]."""
        unequal: Mask = (self.bases != self.bases[0]).any(axis=0)
        return unequal

    def find(self, words: Words, preferred: Audit) -> tuple[Index, Words]:
        """For words of uint64 [3, n]: the region that each follows, -1 for none, and its offset.

        A word follows a region if it lies equally far into it in all captures, or at its end, and
        the region moved. Where several do, because they moved together, `preferred` is taken, else
        the one that it lies in, not at the end of.
        """
        region = np.full(words.shape[1], -1, np.int64)
        offset = np.zeros(words.shape[1], np.uint64)
        reason = np.zeros(words.shape[1], np.int8)
        for index in np.flatnonzero(self.moved):
            # Below the base it wraps, to more than any size.
            near = np.flatnonzero(words[0] - self.bases[0, index] <= self.sizes[index])
            within = words[:, near] - self.bases[:, index, None]
            same = (within == within[0]).all(axis=0)
            better = same * np.where(
                preferred[near] == index, 3, 1 + (within[0] < self.sizes[index])
            )
            kept = better > reason[near]
            taken = near[kept]
            region[taken], offset[taken], reason[taken] = index, within[0, kept], better[kept]
        return region, offset

    def in_process(self, words: Words) -> Mask:
        """Which of the words uint64 [3, n] point into what their processes had mapped, [n]."""
        begins, _ = self._mappings(words)
        found: Mask = (begins != _NOWHERE).all(axis=0)
        return found

    def in_one_library(self, words: Words) -> Mask:
        """Which point equally far into equally large mappings, as of a library's code, [n].

        Not into large ones that lie alike in their pages of 2 MiB: Linux puts these at multiples
        of it in every process, so what such words have in common is no chance.
        """
        begins, sizes = self._mappings(words)
        found: Mask = (begins != _NOWHERE).all(axis=0)
        found &= _alike(words - begins) & _alike(sizes)
        found &= ~((sizes[0] >= _PAGE) & _alike(begins % np.uint64(_PAGE)))
        return found

    def _mappings(self, words: Words) -> tuple[Words, Words]:
        """Where the mapping begins that each of uint64 [3, n] points into, and how large it is."""
        begins, sizes = np.full(words.shape, _NOWHERE), np.zeros_like(words)
        for capture, (values, spans) in enumerate(zip(words, self.mapped, strict=True)):
            last = np.searchsorted(spans[:, 0], values, side="right") - 1
            inside = last >= 0
            inside[inside] = values[inside] < spans[last[inside], 1]
            begins[capture, inside] = spans[last[inside], 0]
            sizes[capture, inside] = spans[last[inside], 1] - spans[last[inside], 0]
        return begins, sizes

    def holding(self, capture: int, upper: Words) -> Mask:
        """Which of the upper halves `upper`, uint64 [n], an address in any region can have."""
        found = np.zeros(upper.shape, bool)
        for base, size in zip(self.bases[capture], self.sizes, strict=True):
            found |= (upper >= base >> np.uint64(32)) & (upper <= (base + size) >> np.uint64(32))
        return found


def _alike(values: Words) -> Mask:
    """What is the same in all captures, uint64 [3, n] to bool [n]."""
    same: Mask = (values == values[0]).all(axis=0)
    return same


def audited(table: GraphTable) -> Audit:
    """The region that each parameter word of a graph points into, -1 for none."""
    found = np.full(table.words.size, -1, np.int16)
    found[table.columns["relocation_word"]] = table.columns["relocation_region"]
    return found


def _placed(captures: Sequence[Sequence[RegionImage]]) -> list[int]:
    """The first capture's arena, and foreign regions at addresses that no process has chosen."""
    arena_end = max((i.base + i.size for i in captures[0] if not i.owner), default=0)
    end = (arena_end // _SPAN + 2) * _SPAN
    found = []
    for images in zip(*captures, strict=True):
        base, size = images[0].base, images[0].size
        if images[0].owner:
            # What its addresses had in common, kernels may rely on.
            alike = [a for a in _ALIGNMENTS if len({image.base % a for image in images}) == 1]
            alignment = alike[0] if alike else _ALIGNMENTS[-1]
            # No two in one page, which can be mapped once alone.
            base = -(-end // _PAGE) * _PAGE + base % alignment
            end = base + size
        found.append(base)
    return found
