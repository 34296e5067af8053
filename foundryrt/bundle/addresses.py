"""Whether the addresses that a bundle would move are ones; only a full check looks at them all.

Without that, a word that is none is found when it is to be moved (foundryrt/native/placement.cpp).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from foundryrt.bundle.errors import InvalidValue
from foundryrt.bundle.schema import Region, Relocation
from foundryrt.bundle.tables import MemberTable, TemplateTable
from foundryrt.printable import quoted


class Addresses:
    """The relocated words of a template: its own, and those of its members, are addresses."""

    def __init__(self, template: TemplateTable, regions: Sequence[Region]) -> None:
        self._regions = regions
        self._region = dict(zip(template.relocation_word, template.relocation_region, strict=True))
        words = template.parameters
        self._check("a template", ((word, words[word]) for word in self._region))

    def check(self, name: str, member: MemberTable) -> None:
        """InvalidValue where a relocated word of a graph is no address of its region."""
        self._check(f"graph {quoted(name)}", zip(member.word, member.value, strict=True))

    def _check(self, where: str, words: Iterable[tuple[int, int]]) -> None:
        for word, value in words:
            if word in self._region:
                _check(f"{where}, word {word}", value, self._regions[self._region[word]])


def check_bytes(
    where: str,
    data: memoryview,
    relocations: Sequence[Relocation],
    regions: Sequence[Region],
    start: int = 0,
) -> None:
    """InvalidValue where a relocated word among bytes, from byte `start` on, is no address of its
    region."""
    words = data[: len(data) // 8 * 8].cast("Q")
    for relocation in relocations:
        at = relocation.offset
        _check(f"{where}, byte {at}", words[(at - start) // 8], regions[relocation.region])


def _check(where: str, value: int, region: Region) -> None:
    if not 0 <= value - region.base <= region.size:
        raise InvalidValue(f"{where}: {value:#x} is no address of region {quoted(region.name)}")
