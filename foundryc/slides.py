"""Where Linux put a process at random: captures that are compared must lie apart in every byte.

What a kernel's arguments hold besides values, such as addresses of the host's stack, is noise where
two captures differ (foundryc/compare). A byte that is random but happens to be equal in both would
be kept: of the stack's addresses one byte in four captures. So the second process is started again
until no random byte is as in the first.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import msgspec

_TRIES = "FOUNDRYC_SLIDE_TRIES"
_MOST = 200
"""Starts, of which some one in eight does; without random addresses none does."""
_PAGE, _LARGE_PAGE, _THREAD_HEAP = 12, 21, 26
"""Low bits that are 0 where Linux and the C library put memory."""
_TOP = (0x55, 0x7F)
"""The highest byte of an address: Linux puts some programs at 0x56, which is then no noise."""


class Slides(msgspec.Struct, frozen=True):
    """An address of each thing that has a random place of its own; 0 where there is none."""

    stack: int
    program: int
    heap: int
    libraries: int

    @classmethod
    def here(cls) -> Slides:
        """This process's."""
        program, heap, libraries = 0, 0, 0
        lines = Path("/proc/self/maps").read_text().splitlines()
        for number, line in enumerate(lines):
            start, name = int(line.split("-")[0], 16), line[73:]
            program = start if number == 0 and start >= 1 << 32 else program
            heap = start if name == "[heap]" else heap
            # The loader is there first; later libraries may be put at a multiple of large pages.
            libraries = libraries or (start if "/ld-" in name else 0)
        # The 28th field, counted behind the command, which may hold any letter.
        stack = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[25]
        return cls(int(stack), program, heap, libraries)

    def usual(self) -> bool:
        """Whether all are where such things mostly are."""
        return all(place >> 40 in _TOP for place in self._places() if place)

    def apart(self, other: Slides) -> bool:
        """Whether addresses of equal things differ in all bytes that are random."""
        pairs = zip(self._places(), other._places(), strict=True)
        if not all(_differs(a - b, _PAGE) for a, b in pairs if a or b):
            return False
        mapped = self.libraries - other.libraries
        large = _differs(mapped, _LARGE_PAGE) and _differs(mapped, _THREAD_HEAP)
        return large and (self.stack - other.stack) % 256 != 0

    def _places(self) -> tuple[int, ...]:
        return msgspec.structs.astuple(self)


def _differs(distance: int, bits: int) -> bool:
    """Whether any address and the one `distance` bytes away, both rounded to `bits` low bits of 0,
    differ in all bytes that are random.

    A byte of an address stays where the distance has a 0 there, or 255 and a carry from below.
    """
    down, up = distance >> bits << bits, -(-distance >> bits) << bits
    return not any(
        (rounded >> 8 * byte) & 255 in (0, 255)
        for rounded in (down, up)
        for byte in range(bits // 8, 5)
    )


def keep_apart(first: Slides | None) -> Slides:
    """Replace this process by a new one of the same command until it lies apart from `first`, a
    capture's to compare with; None is the first itself. Returns its own slides.

    Call it before anything else is done: it does not come back to the same process. Where Linux
    gives no random addresses, it returns after some tries.
    """
    slides = Slides.here()
    tries = int(os.environ.pop(_TRIES, "0"))
    if (slides.usual() and (first is None or slides.apart(first))) or tries >= _MOST:
        return slides
    sys.stdout.flush()
    sys.stderr.flush()
    arguments: list[Any] = sys.orig_argv
    os.execve(sys.executable, arguments, os.environ | {_TRIES: str(tries + 1)})
