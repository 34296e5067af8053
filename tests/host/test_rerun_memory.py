"""Memory is put back before a graph runs again, and looked at afterwards, in steps."""

from __future__ import annotations

from typing import Any

import pytest

from foundryc import packed
from foundryc.capture import RegionImage
from foundryc.cuda import rerun

BASE = 0x600000000000
LARGE = packed.SHORTEST


class Memory:
    """A device's, of one region, with the driver's calls that a rerun makes."""

    def __init__(self, size: int) -> None:
        self.bytes = bytearray(b"\xaa" * size)

    def call(self, name: str, *arguments: Any, about: str = "") -> None:
        if name == "cuMemsetD8":
            address, value, size = arguments
            self.bytes[self._at(address, size)] = bytes([value]) * size
        elif name == "cuMemcpyHtoD":
            address, data, size = arguments
            self.bytes[self._at(address, size)] = data[:size]
        else:
            assert name == "cuMemcpyDtoH"
            into, address, size = arguments
            into[:] = self.bytes[self._at(address, size)]

    def _at(self, address: int, size: int) -> slice:
        start = address - BASE
        assert 0 <= start <= start + size <= len(self.bytes)
        return slice(start, start + size)


SHORT: list[list[bytes]] = [[], [b"first"], [bytes(20), b"last"]]
LONG = [
    [b"first", bytes(2 * LARGE), b"last"], [bytes(2 * LARGE), b"last"], [bytes(LARGE + 3)],
]  # fmt: skip


@pytest.mark.parametrize(
    ("step", "parts"),
    [(step, parts) for step in (1 << 20, 64 << 20) for parts in SHORT + LONG]
    + [(7, parts) for parts in SHORT],
)
def test_what_was_there_is_put_back_and_changes_are_seen(
    monkeypatch: pytest.MonkeyPatch, parts: list[bytes], step: int
) -> None:
    data = b"".join(parts)
    image = RegionImage(
        "foreign 0", BASE, len(data) + 50, (lambda: parts) if parts else None, owner="a library"
    )
    memory = Memory(image.size)
    monkeypatch.setattr(rerun.driver, "call", memory.call)
    monkeypatch.setattr(rerun, "_STEP", step)
    held = packed.runs(image.initial)
    rerun._restore(image, held)
    assert memory.bytes == data + bytes(50)
    assert not rerun._changed(image, held)
    for at in {0, len(data) // 2, max(len(data) - 1, 0), len(memory.bytes) - 1}:
        memory.bytes[at] ^= 1
        assert rerun._changed(image, held)
        memory.bytes[at] ^= 1


def test_of_slabs_the_own_one_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    image = RegionImage("symmetric", BASE, 4 << 21, peer_stride=1 << 21)
    memory = Memory(image.peer_stride)
    monkeypatch.setattr(rerun.driver, "call", memory.call)
    rerun._restore(image, packed.runs(image.initial))
    assert not any(memory.bytes)
