"""What the regions of a bundle begin with, on the device."""

from __future__ import annotations

from collections.abc import Collection

from foundryrt.bundle.extents import Initial
from foundryrt.bundle.reader import Bundle
from foundryrt.cuda.arena import Arena
from foundryrt.cuda.upload import Uploader


def fill(bundle: Bundle, arena: Arena, uploader: Uploader, but: Collection[str]) -> None:
    """Queue for every region what it held at capture: its saved bytes, the rest zero.

    `but` names regions that stay as they are. Of the ranks' slabs the own one is filled.
    """
    for region in bundle.manifest.regions:
        if region.name in but:
            continue
        end, (base, size) = 0, arena.memory(region)
        for part in bundle.initial(region):
            if part.offset > end:
                uploader.clear(base + end, part.offset - end)
            data = _relocated(arena, part)
            uploader.copy(base + part.offset, data)
            end = part.offset + len(data)
        if size > end:
            uploader.clear(base + end, size - end)


def _relocated(arena: Arena, part: Initial) -> memoryview:
    """The bytes with their addresses as they are now; a copy where there are any."""
    if not part.relocations or not any(arena.deltas):
        return part.data
    moved = memoryview(bytearray(part.data))
    words = moved[: len(moved) // 8 * 8].cast("Q")
    for relocation in part.relocations:
        at = (relocation.offset - part.offset) // 8
        words[at] = arena.at(words[at], relocation.region)
    return moved
