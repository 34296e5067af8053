"""Where Linux put a process at random: captures that are compared must lie apart in every byte.

What a kernel's arguments hold besides values, such as addresses of the host's stack, is noise where
two captures differ (foundryc/compare). A byte that is random but happens to be equal in both would
be kept: of an address of the stack, one byte in four pairs of captures. So a process is started
until none of its random bytes is as in another; the others end before they have done anything.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path

_MOST = 1000
"""Starts, of which some one in thirty does; without random addresses none does."""
_READINGS = 100
"""Of where a process lies, a millisecond apart; a program without a loader takes them all."""
_PAGE, _LARGE_PAGE, _THREAD_HEAP = 12, 21, 26
"""Low bits that are 0 where Linux and the C library put memory."""
_TOP = 40
"""Bits below the highest byte of an address."""


@dataclass(frozen=True)
class Slides:
    """An address of each thing that has a random place of its own; 0 where it is not known."""

    stack: int
    program: int
    heap: int
    libraries: int

    @classmethod
    def of(cls, process: int | str = "self") -> Slides:
        """Those of a process of this user, as soon as it runs its program.

        None is known where nobody may see them, as of a program with capabilities of its own.
        """
        folder = Path("/proc") / str(process)
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            lines = (folder / "maps").read_text().splitlines()
        except PermissionError:
            return cls(0, 0, 0, 0)
        # Behind the command, which may hold any letter, comes the third field of proc(5).
        program, stack, heap = (int(fields[number - 3]) for number in (26, 28, 47))
        # The loader is there first; later libraries may be put at a multiple of large pages.
        loaders = [int(line.split("-")[0], 16) for line in lines if "/ld-" in line]
        if not program >> 32:  # It is where it was linked for; its heap lies some way behind it.
            program = 0
        return cls(stack, program, heap, min(loaders, default=0))

    def apart(self, other: Slides) -> bool:
        """Whether addresses of equal things differ in all random bytes; true if unknown."""
        if not (self.stack and other.stack):
            return True
        pairs = list(zip(astuple(self), astuple(other), strict=True))
        if not all(_differ(a - b, _PAGE, 5 if a >> 32 else 4) for a, b in pairs if a and b):
            return False
        # Programs and their heaps have either of two highest bytes, stacks always the same, and
        # libraries 0x7E or 0x7F, or any of 16: vm.mmap_rnd_bits, which not everybody may read.
        random = pairs[1:4] if min(self.libraries, other.libraries) >> _TOP < 0x7E else pairs[1:3]
        if any(a >> _TOP == b >> _TOP for a, b in random if a >> _TOP and b >> _TOP):
            return False
        mapped = self.libraries - other.libraries
        large = _differ(mapped, _LARGE_PAGE) and _differ(mapped, _THREAD_HEAP)
        # A function that keeps vectors may round its frame down to a multiple of their 64 bytes, or
        # of 32. Then other bytes are left above it, too, where what is rounded off differs.
        distance = (self.stack - other.stack) % 256
        return large and 64 <= distance <= 192 and distance % 32 != 0


def start_apart(
    start: Callable[[], subprocess.Popen[bytes]], other: Slides
) -> tuple[subprocess.Popen[bytes], Slides]:
    """A process of `start` that lies apart from `other`, and where it lies.

    Where Linux gives no random addresses, it is the last of many.
    """
    for _ in range(_MOST):
        process = start()
        slides = _loaded(process)
        if slides.apart(other) or process.poll() is not None:
            break
        process.kill()
        process.wait()
    else:
        process = start()
    return process, slides


def _loaded(process: subprocess.Popen[bytes]) -> Slides:
    """Where `process` lies once its program and loader do; Linux maps them one after another."""
    seen = Slides(0, 0, 0, 0)
    for _ in range(_READINGS):
        if process.poll() is not None:
            break
        before, seen = seen, Slides.of(process.pid)
        if seen == before and seen.libraries:
            break
        time.sleep(0.001)
    return seen


def _differ(distance: int, bits: int, end: int = 5) -> bool:
    """Whether any address and the one `distance` bytes away, both rounded to `bits` low bits of 0,
    differ in all bytes that are random, which are those below byte `end`.

    A byte of an address stays where the distance has a 0 there, or 255 and a carry from below.
    """
    down, up = distance >> bits << bits, -(-distance >> bits) << bits
    return not any(
        (rounded >> 8 * byte) & 255 in (0, 255)
        for rounded in (down, up)
        for byte in range(bits // 8, end)
    )
