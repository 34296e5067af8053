"""What the regions of a bundle begin with, on the device."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import Relocation
from foundryrt.cuda.arena import Arena
from foundryrt.cuda.upload import Uploader


def fill(bundle: Bundle, arena: Arena, uploader: Uploader, but: Collection[str]) -> None:
    """Queue for every region what it held at capture: its saved bytes, the rest zero.

    `but` names regions that stay as they are. Of the ranks' slabs the own one is filled.
    """
    for region in bundle.manifest.regions:
        if region.name in but:
            continue
        saved, (base, size) = 0, arena.memory(region)
        if region.section != -1:
            data = _relocated(arena, bundle.raw(region.section), region.relocations)
            saved = len(data)
            uploader.copy(base, data)
        if size > saved:
            uploader.clear(base + saved, size - saved)


def _relocated(arena: Arena, data: memoryview, relocations: Sequence[Relocation]) -> memoryview:
    """`data` with its addresses as they are now; a copy where there are any."""
    if not relocations or not any(arena.deltas):
        return data
    moved = memoryview(bytearray(data))
    words = moved[: len(moved) // 8 * 8].cast("Q")
    for relocation in relocations:
        at = relocation.offset // 8
        words[at] = arena.at(words[at], relocation.region)
    return moved
