"""What a region begins with, without the long runs of zeros in it.

A cache of gigabytes that is zero may lie in front of a few bytes that are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from foundryrt.bundle.schema import Extent
from foundryrt.bundle.writer import Buffer

SHORTEST = 1 << 20
"""Zero bytes that are left out where they follow each other; fewer compress well."""
_STEP = 1 << 16
"""Bytes that are looked at together, from a multiple of as many on."""


Run = tuple[int, bytes]
"""Where bytes lie, and they themselves."""


class Packed:
    """The bytes of a region from its start on, in order, but for long runs of zeros.

    What is left out follows from the bytes, wherever `parts` are cut.
    """

    def __init__(self, parts: Iterable[Buffer]) -> None:
        self._parts = parts
        self.found: list[Extent] = []
        """Where the bytes lie that were iterated over."""

    @property
    def extents(self) -> tuple[Extent, ...]:
        """The same for a bundle: none where they are the region's first."""
        prefix = len(self.found) == 1 and self.found[0].offset == 0
        return () if prefix else tuple(self.found)

    def __iter__(self) -> Iterator[Buffer]:
        """Buffers to store one behind the other."""
        self.found = []
        start = end = zeros = 0  # of the extent, and zeros behind it so far
        for block in _blocks(self._parts):
            if not np.frombuffer(block, np.uint8).any():
                zeros += len(block)
                continue
            if zeros >= SHORTEST:
                self._finish(start, end)
                start = end = end + zeros
            elif zeros:
                yield bytes(zeros)
                end += zeros
            zeros = 0
            yield block
            end += len(block)
        if 0 < zeros < SHORTEST:
            yield bytes(zeros)
            end += zeros
        self._finish(start, end)

    def _finish(self, start: int, end: int) -> None:
        if end > start:
            self.found.append(Extent(offset=start, size=end - start))


def runs(initial: Callable[[], Iterable[Buffer]] | None) -> list[Run]:
    """What a region begins with (`RegionImage.initial`), by rising offset; the rest is zero."""
    packed = Packed(initial() if initial else ())
    held: list[list[Buffer]] = []
    for buffer in packed:
        if len(held) == len(packed.found):  # the extents before are finished
            held.append([])
        held[-1].append(buffer)
    return [(extent.offset, b"".join(own)) for extent, own in zip(packed.found, held, strict=True)]


def _blocks(parts: Iterable[Buffer]) -> Iterator[Buffer]:
    """All bytes, cut at multiples of _STEP."""
    begun = bytearray()
    for part in parts:
        data = memoryview(part).cast("B") if len(part) else memoryview(b"")
        if begun:
            missing = _STEP - len(begun)
            begun += data[:missing]
            data = data[missing:]
            if len(begun) < _STEP:
                continue
            yield bytes(begun)
            begun.clear()
        whole = len(data) // _STEP * _STEP
        for start in range(0, whole, _STEP):
            yield data[start : start + _STEP]
        begun += data[whole:]
    if begun:
        yield bytes(begun)
