"""What regions and variables begin with, compared in steps: weights may be gigabytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np
import numpy.typing as npt

from foundryc.capture import Capture, RegionImage
from foundryc.compare.places import RegionPlace, VariablePlace
from foundryc.compare.regions import Audit, Regions
from foundryc.compare.words import Settled, settle
from foundryc.template import Words
from foundryrt.bundle.schema import Relocation, Variable

Bytes = npt.NDArray[np.uint8]

_STEP = 4 << 20
"""Bytes of each capture that are compared at a time, a multiple of 8."""


@dataclass(frozen=True)
class Contents:
    """The first `length` bytes of a region as the bundle has them, read when asked for."""

    captures: Sequence[Capture]
    regions: Regions
    region: int
    length: int

    def __call__(self) -> Iterator[memoryview]:
        """The bytes in steps."""
        for start, settled in _steps(self.captures, self.regions, self.region):
            data = settled.words.view(np.uint8)[: max(self.length - 8 * start, 0)]
            if data.size:
                yield data.data


def settle_region(captures: Sequence[Capture], regions: Regions, region: int) -> RegionImage:
    """The region of the bundle; FoundryError as settle has it.

    Zeros at the end, which are there by themselves, are left out.
    """
    image = captures[0].regions[region]
    relocations: list[Relocation] = []
    length = 0
    for start, settled in _steps(captures, regions, region):
        relocations += _relocations(settled, start)
        for last in np.flatnonzero(settled.words)[-1:]:
            length = min(8 * (start + int(last) + 1), image.size)
    return replace(
        image,
        base=int(regions.placed[region]),
        initial=Contents(captures, regions, region, length) if length else None,
        relocations=tuple(relocations),
    )


def settle_variable(captures: Sequence[Capture], regions: Regions, index: int) -> Variable:
    """The variable of the bundle; FoundryError as settle has it."""
    first = captures[0].variables[index]
    size = len(first.data)
    words, audited = variable_words(captures, index)
    settled = settle(words, audited, regions, VariablePlace(first.name, first.kernel))
    return Variable(
        kernel=first.kernel,
        name=first.name,
        data=settled.words.tobytes()[:size],
        relocations=tuple(_relocations(settled, 0)),
    )


def _steps(
    captures: Sequence[Capture], regions: Regions, region: int
) -> Iterator[tuple[int, Settled]]:
    """The region in steps, each with the word where it begins."""
    for start, words, audited in region_words(captures, region):
        settled = settle(words, audited, regions, RegionPlace(captures[0], region, start))
        del words, audited  # before the next ones are read
        yield start, settled


def region_words(captures: Sequence[Capture], region: int) -> Iterator[tuple[int, Words, Audit]]:
    """What a region begins with in steps: the word where each begins, the words of all captures,
    uint64 [captures, n], and the region that each of them points into by its audit."""
    images = [capture.regions[region] for capture in captures]
    start = 0
    for parts in zip_longest(*map(_parts, images), fillvalue=np.empty(0, np.uint8)):
        words = _side_by_side(parts)
        yield start, words, _audits([i.relocations for i in images], start, words.shape[1])
        start += words.shape[1]


def variable_words(captures: Sequence[Capture], index: int) -> tuple[Words, Audit]:
    """A variable's words of all captures, and the regions that they point into."""
    variables = [capture.variables[index] for capture in captures]
    words = _side_by_side([np.frombuffer(v.data, np.uint8) for v in variables])
    return words, _audits([v.relocations for v in variables], 0, words.shape[1])


def _parts(image: RegionImage) -> Iterator[Bytes]:
    """What the region begins with, in parts of _STEP bytes and one of the rest."""
    part, filled = np.empty(_STEP, np.uint8), 0
    for buffer in image.initial() if image.initial else ():
        data = np.frombuffer(memoryview(buffer).cast("B"), np.uint8) if len(buffer) else part[:0]
        while data.size:
            if not filled and data.size >= _STEP:  # Most of a large region comes in large buffers.
                yield data[:_STEP]
                data = data[_STEP:]
                continue
            taken = min(data.size, _STEP - filled)
            part[filled : filled + taken] = data[:taken]
            data, filled = data[taken:], filled + taken
            if filled == _STEP:
                yield part
                part, filled = np.empty(_STEP, np.uint8), 0
    if filled:
        yield part[:filled]


def _side_by_side(parts: Sequence[Bytes]) -> Words:
    """Bytes of each capture as words, uint64 [captures, n]; the shorter ones end in zeros."""
    longest = max(part.size for part in parts)
    rows = np.zeros((len(parts), -(-longest // 8) * 8), np.uint8)
    for row, part in zip(rows, parts, strict=True):
        row[: part.size] = part
    return rows.view(np.uint64)


def _audits(every: Sequence[Sequence[Relocation]], start: int, count: int) -> Audit:
    """The regions that `count` words from word `start` on point into, [captures, count]."""
    return np.stack([_audited(relocations, start, count) for relocations in every])


def _audited(relocations: Sequence[Relocation], start: int, count: int) -> Audit:
    """The region that each of `count` words from word `start` on points into, -1 for none."""
    found = np.full(count, -1, np.int16)
    for relocation in relocations:
        word = relocation.offset // 8 - start
        if 0 <= word < count:
            found[word] = relocation.region
    return found


def _relocations(settled: Settled, start: int) -> list[Relocation]:
    return [
        Relocation(offset=8 * (start + word), region=region)
        for word, region in zip(settled.relocated.tolist(), settled.region.tolist(), strict=True)
    ]
