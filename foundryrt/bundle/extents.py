"""Where a region's initial bytes lie, which its section holds one run behind the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from foundryrt.bundle.rules import require
from foundryrt.bundle.schema import Extent, Region, Relocation


class Initial(NamedTuple):
    """Bytes that a region begins with, `offset` bytes into it, and the addresses among them."""

    offset: int
    data: memoryview
    relocations: list[Relocation]
    """Their offsets count from the region's start."""


def extents_of(region: Region, stored: int) -> tuple[Extent, ...]:
    """Of a region whose section has `stored` bytes, which without extents are its beginning."""
    return region.extents or ((Extent(offset=0, size=stored),) if stored else ())


def initial(region: Region, stored: memoryview) -> list[Initial]:
    """What a region begins with, by the bytes of its section; the rest is zero."""
    found, start = [], 0
    extents = extents_of(region, len(stored))
    for extent, relocations in by_extent(extents, region.relocations):
        data = stored[start : start + extent.size]
        found.append(Initial(extent.offset, data, relocations))
        start += extent.size
    return found


def by_extent(
    extents: Sequence[Extent], relocations: Sequence[Relocation]
) -> Iterator[tuple[Extent, list[Relocation]]]:
    """Each extent with the addresses that lie in it; both are in rising order."""
    rest = iter(relocations)
    following = next(rest, None)
    for extent in extents:
        own = []
        while following is not None and following.offset < extent.offset + extent.size:
            own.append(following)
            following = next(rest, None)
        yield extent, own


def check_extents(where: str, region: Region, stored: int) -> None:
    """Raise InvalidValue for extents that overlap, fall, leave the region, begin at no multiple of
    8, or are not of as many bytes as are stored."""
    if not region.extents:
        return
    end = 0
    for extent in region.extents:
        require(
            extent.size > 0 and end <= extent.offset <= region.size - extent.size,
            f"{where}: an extent of {extent.size} bytes at {extent.offset} is not behind the one"
            f" before, or not within the region's {region.size} bytes",
        )
        require(extent.offset % 8 == 0, f"{where}: an extent at {extent.offset}, no multiple of 8")
        end = extent.offset + extent.size
    total = sum(extent.size for extent in region.extents)
    require(total == stored, f"{where}: extents of {total} bytes, of which {stored} are stored")
