"""Processes that lie apart: addresses of equal things differ in every byte that is random."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundryc.slides import Slides
from tests.unit.compared_captures import chosen

RANDOM = Path("/proc/sys/kernel/randomize_va_space").read_text().strip() != "0"
SCRIPT = """
import os, sys, msgspec
from foundryc.slides import Slides, keep_apart
first = msgspec.json.decode(sys.argv[1], type=Slides | None)
slides = keep_apart(first)
assert slides == Slides.here() and not any("SLIDE" in name for name in os.environ)
print(msgspec.json.encode(slides).decode())
"""


@given(st.integers(0, 1 << 64), st.integers(0, 1 << 24))
def test_no_random_byte_is_equal(seed: int, within: int) -> None:
    random = Random(seed)
    one = chosen(random)
    other = next(slides for _ in range(1000) if (slides := chosen(random)).apart(one))
    assert one.apart(other)
    for name in Slides.__struct_fields__:
        a, b = (getattr(s, name) + within for s in (one, other))
        # Places are multiples of a page, but for the stack's.
        for byte in range(0 if name == "stack" else 1, 5):
            assert (a >> 8 * byte) & 255 != (b >> 8 * byte) & 255
        for bits in (21, 26) if name == "libraries" else ():
            below = [value >> bits << bits for value in (a, b)]
            for byte in range(bits // 8, 5):
                assert len({(value >> 8 * byte) & 255 for value in below}) == 2


def test_one_equal_byte_is_not_apart() -> None:
    one = Slides(0x7FFC11223340, 0x551122334000, 0x559911223000, 0x7F1122334000)
    far = {name: getattr(one, name) + 0x0155555510 for name in Slides.__struct_fields__}
    assert one.apart(Slides(**far))
    for name in far:
        for byte in range(1, 5):
            moved = getattr(one, name) + (0x0155555510 & ~(255 << 8 * byte))
            assert not one.apart(Slides(**far | {name: moved}))
    assert not one.apart(Slides(**far | {"stack": one.stack + 0x0155555500}))


def fresh(first: Slides | None) -> Slides:
    command = [sys.executable, "-c", SCRIPT, msgspec.json.encode(first).decode()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(done.stdout, type=Slides)


@pytest.mark.skipif(not RANDOM, reason="Linux gives no random addresses here")
def test_a_process_is_started_until_it_lies_apart() -> None:
    first = fresh(None)
    second = fresh(first)
    assert first.usual() and second.usual()
    assert second.apart(first)
