"""Processes that lie apart: addresses of equal things differ in every byte that is random."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundryc.compare import compare
from foundryc.slides import Slides, start_apart
from tests.unit.test_compare import FIXED, hand

NAMES = [field.name for field in fields(Slides)]
RANDOM = Path("/proc/sys/kernel/randomize_va_space").read_text().strip() != "0"


def chosen(random: Random, bits: int = 28, low: bool = False) -> Slides:
    """Where a process lies, as Linux chooses it; `bits` of a library's page are random.

    `low`: its program was linked for one place.
    """
    pages = [4096 * random.getrandbits(28), 4096 * random.getrandbits(bits)]
    program = 0x555555554000 + pages[0]
    heap = program + 4096 * random.getrandbits(13)
    stack = 0x7FFC00000000 + 16 * random.getrandbits(30)
    if low:
        program, heap = 0, 0xA00000 + 4096 * random.getrandbits(18)
    return Slides(stack, program, heap, 0x7FFFF7FFF000 - pages[1])


@given(st.integers(0, 1 << 64), st.integers(0, 1 << 24))
def test_no_random_byte_is_equal(seed: int, within: int) -> None:
    random = Random(seed)
    one = chosen(random)
    other = next(slides for _ in range(1000) if (slides := chosen(random)).apart(one))
    assert one.apart(other)
    for name in NAMES:
        a, b = (getattr(s, name) + within for s in (one, other))
        # Places are multiples of a page, but for the stack's; programs' highest bytes are random.
        for byte in range(0 if name == "stack" else 1, 6 if name == "program" else 5):
            assert (a >> 8 * byte) & 255 != (b >> 8 * byte) & 255
        if name == "stack":  # some frames are rounded down
            assert (a >> 6 & 3) != (b >> 6 & 3) and a % 32 != b % 32
        for bits in (21, 26) if name == "libraries" else ():
            below = [value >> bits << bits for value in (a, b)]
            for byte in range(bits // 8, 5):
                assert len({(value >> 8 * byte) & 255 for value in below}) == 2


@given(st.integers(0, 1 << 64))
def test_heaps_of_programs_linked_for_one_place_lie_apart(seed: int) -> None:
    random = Random(seed)
    one = chosen(random, low=True)
    other = next(s for _ in range(1000) if (s := chosen(random, low=True)).apart(one))
    for byte in range(2, 4):
        assert (one.heap >> 8 * byte) & 255 != (other.heap >> 8 * byte) & 255


@settings(max_examples=30)
@given(
    things=st.lists(
        st.tuples(st.sampled_from(NAMES), st.integers(0, 1 << 17)),
        min_size=4, max_size=4,
    ),
    seed=st.integers(0, 1 << 64),
)  # fmt: skip
def test_captures_that_lie_apart_leave_the_same_of_addresses(things, seed: int) -> None:
    """Of other processes too: what is left of an address of the host depends on none of them."""
    random = Random(seed)
    found = []
    for _ in range(2):
        first = chosen(random)
        again = next(other for _ in range(1000) if (other := chosen(random)).apart(first))
        processes = (first, again, chosen(random))
        values = [tuple(getattr(p, name) + within for p in processes) for name, within in things]
        result = compare(*hand(values, layout=FIXED))  # type: ignore[arg-type]
        found.append(result.graphs[0].words.tolist())
    assert found[0] == found[1]


@given(st.integers(0, 1 << 64))
def test_highest_bytes_of_libraries_differ_where_they_are_random(seed: int) -> None:
    """Two processes of 256 seem to have fixed ones, since both have the usual byte."""
    random = Random(seed)
    one = chosen(random, bits=32)
    other = next(s for _ in range(100_000) if (s := chosen(random, bits=32)).apart(one))
    tops = [slides.libraries >> 40 for slides in (one, other)]
    assert tops[0] != tops[1] or min(tops) >= 0x7E


def test_one_equal_byte_is_not_apart() -> None:
    one = Slides(0x7FFC11223340, 0x551122334000, 0x559911223000, 0x7F1122334000)
    distances = {"stack": 0x0155555550, "libraries": 0x0155555000}
    distances |= {"program": 0x010155555000, "heap": 0x010155555000}
    far = {name: getattr(one, name) + distance for name, distance in distances.items()}
    assert one.apart(Slides(**far))
    for name, distance in distances.items():
        for byte in range(1, 6 if name in ("program", "heap") else 5):
            moved = getattr(one, name) + (distance & ~(255 << 8 * byte))
            assert not one.apart(Slides(**far | {name: moved}))
    assert not one.apart(Slides(**far | {"stack": one.stack + 0x0155555500}))


@pytest.mark.skipif(not RANDOM, reason="Linux gives no random addresses here")
def test_a_process_is_started_until_it_lies_apart() -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", "input()"]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE))
        return started[-1]

    here = Slides.of()
    process, found = start_apart(start, here)
    try:
        assert process is started[-1] and process.poll() is None
        assert all(other.returncode for other in started[:-1])
        assert found == Slides.of(process.pid) != here
        assert found.apart(here) and not here.apart(here)
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        assert f"\n{found.libraries:x}-" in maps
        further, place = start_apart(start, found)
        further.communicate(b"\n")
        assert place.apart(found)
    finally:
        process.communicate(b"\n")
    assert process.returncode == 0
    assert start_apart(lambda: ended(started[0]), here)[0] is started[0]


def ended(process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    process.wait()
    return process


def test_a_process_that_nobody_may_see_is_started_once(monkeypatch) -> None:
    """As of an interpreter with capabilities: Linux shows its maps to root alone."""

    def refused(path: Path) -> str:
        if path.name == "maps":
            raise PermissionError(path)
        return Path.read_bytes(path).decode()

    here = Slides.of()
    monkeypatch.setattr(Path, "read_text", refused)
    started = []

    def start() -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))
        return started[-1]

    process, slides = start_apart(start, here)
    process.communicate(b"\n")
    assert process.returncode == 0 and len(started) == 1 and slides == Slides(0, 0, 0, 0)
