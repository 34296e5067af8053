"""What kernels' arguments find on the stack while a graph is recorded."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
import threading
from collections import Counter
from functools import partial, reduce

import pytest

from foundryc import elsewhere, native
from foundryc.cuda import harvest
from foundryc.cuda.stack import filled
from foundryrt.errors import FoundryError
from tests.fakecuda import conftest

SIZE = 8000
REST = 200
"""What the call itself puts there: its return address, a guard, what it saves."""


class Found:
    """Operators and functions that see what is on the stack below them."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._bytes = ctypes.create_string_buffer(SIZE)
        self.seen: list[tuple[int, int]] = []

    def look(self) -> None:
        self._library.fakecuda_found_on_stack(self._bytes, ctypes.c_size_t(SIZE))
        self.seen += Counter(self._bytes.raw).most_common(1)

    def __neg__(self) -> int:
        self.look()
        return 0


def dirty(depth: int = 40) -> int:
    """Leaves much on the stack."""
    return sum(sorted([depth, *([dirty(depth - 1)] if depth else [])], key=lambda n: -n))


@pytest.mark.parametrize("value", [0, 0x5A, 0xA5])
def test_a_line_and_a_call_find_the_byte_alone(library, value):
    found = Found(library)
    dirty()
    with filled(value):
        found.look()
        dirty()
        for _ in range(2):
            _ = -found
            dirty(), found.look()
    assert len(found.seen) == 5
    for byte, count in found.seen:
        assert byte == value and count > SIZE - REST


def test_a_call_later_in_a_line_finds_it_too(library):
    core, found = native.library(), ctypes.create_string_buffer(SIZE)
    look = partial(reduce, library.fakecuda_found_on_stack, [found, ctypes.c_size_t(SIZE)])

    def other():
        core.foundryc_fill_with(1)
        core.foundryc_fill_with(0xA5)  # before it, the stack is filled with the other byte

    with filled(0xA5):
        other(), reduce(library.fakecuda_found_on_stack, [found, ctypes.c_size_t(SIZE)])
    assert Counter(found.raw).most_common(1)[0][0] == 0xA5
    with filled(0xA5):
        other(), look()  # no function in C by itself: nothing is filled before it
    assert Counter(found.raw).most_common(1)[0][0] == 1


LOADED = conftest.ROOT / "build" / "tests" / "libloaded.so"
ALLOCATING = [
    "malloc",
    "calloc",
    "realloc",
    "free",
    "posix_memalign",
    "aligned_alloc",
    "new",
    "delete",
]


def left_after(library, function: str) -> tuple[int, int]:
    """The byte that most of the stack holds after `function` of the allocator, and how often."""
    found = ctypes.create_string_buffer(SIZE)
    library.fakecuda_found_after(function.encode(), 0xEE, found, ctypes.c_size_t(SIZE))
    return Counter(found.raw).most_common(1)[0]


@pytest.mark.parametrize("function", ALLOCATING)
def test_what_allocates_leaves_the_byte_alone(library, function):
    """How much the allocator leaves there depends on what the heap holds."""
    before = left_after(library, function)
    with filled(0x5A):
        byte, count = left_after(library, function)
    assert byte == 0x5A and count > SIZE - REST
    assert before[0] == left_after(library, function)[0] == 0xEE


def allocating(library, *arguments) -> list[int]:
    """What a program that is linked for one place prints."""
    program = [conftest.ROOT / "build" / "tests" / "allocating", native.PATH, library._name]
    done = subprocess.run([*program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return [int(line) for line in done.stdout.split()]


def test_in_a_program_that_is_linked_for_one_place_too(library):
    filled_bytes = allocating(library, *ALLOCATING)
    assert len(filled_bytes) == len(ALLOCATING) and min(filled_bytes) > SIZE - REST


@pytest.mark.parametrize("count", [1, 40])  # more than a thread has room for without an allocation
def test_libraries_come_and_go_meanwhile(library, tmp_path, count):
    """The loader allocates by the program's entries while it makes room for the thread."""
    copies = [tmp_path / f"{number}.so" for number in range(count)]
    for copy in copies:
        shutil.copy(LOADED, copy)
    left = allocating(library, *copies, "malloc", *copies, "free")
    assert len(left) == 2 and min(left) > SIZE - REST


RECORDED_WHILE_ANOTHER_LOADS = """
import ctypes, sys, threading
own, core = ctypes.CDLL(None), ctypes.CDLL(sys.argv[1])
own.dlopen.restype, own.dlclose.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def load():
    for _ in range(200):
        library = own.dlopen(sys.argv[2].encode(), 2)
        assert library and own.dlclose(library) == 0

other = threading.Thread(target=load)
other.start()
recorded = 0
while other.is_alive():
    core.foundryc_fill_after_allocations(1)
    core.foundryc_fill_after_allocations(0)
    recorded += 1
print(recorded)
"""


def test_a_library_that_another_thread_loads_meanwhile_is_left_to_the_loader(library):
    program = [sys.executable, "-c", RECORDED_WHILE_ANOTHER_LOADS, native.PATH, LOADED]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


def test_allocations_of_another_thread_are_left_alone(library):
    found = []
    with filled(0x5A):
        other = threading.Thread(target=lambda: found.append(left_after(library, "malloc")))
        other.start()
        other.join()
    assert found[0][0] == 0xEE


def test_another_thread_is_left_alone(library):
    found = Found(library)
    with filled(0xA5):
        other = threading.Thread(target=found.look)
        other.start()
        other.join()
    assert found.seen and found.seen[0][0] != 0xA5


def test_a_debugger_and_a_profiler_go_on_afterwards(library):
    def tracer(*_):
        return None

    before = sys.gettrace(), sys.getprofile()
    sys.settrace(tracer), sys.setprofile(tracer)
    try:
        with pytest.raises(KeyError), filled(1):
            raise KeyError
        assert (sys.gettrace(), sys.getprofile()) == (tracer, tracer)
    finally:
        sys.settrace(before[0]), sys.setprofile(before[1])


def test_a_thread_with_a_small_stack_is_left_alone(library):
    before, ended = threading.stack_size(128 << 10), []

    def body():
        with filled(0xA5):
            ended.append(sum(range(10)))

    try:
        small = threading.Thread(target=body)
        small.start()
        small.join()
    finally:
        threading.stack_size(before)
    assert ended == [45]


def said_by_captures(said, monkeypatch, tmp_path):
    """What the bundle's capture says, the one that is made again, and the moved one."""
    monkeypatch.delenv(elsewhere.STORE, raising=False)
    monkeypatch.delenv(elsewhere.MOVED, raising=False)
    first = said()
    monkeypatch.setenv(elsewhere.STORE, str(tmp_path / "again"))
    again = said()
    monkeypatch.setenv(elsewhere.MOVED, "1")
    return [first, again, said()]


def test_captures_that_are_compared_fill_it_with_unlike_bytes(monkeypatch, tmp_path):
    seen = said_by_captures(elsewhere.fill, monkeypatch, tmp_path)
    # Unlike in each half of a byte, and in both captures that are compared with the bundle's.
    assert seen == [0, 0xA5, 0x5A]


def test_calls_that_are_counted_are_made_in_one_capture(monkeypatch, tmp_path):
    seen = said_by_captures(elsewhere.calls_ahead, monkeypatch, tmp_path)
    assert seen[::2] == [0, 0]
    # However close the counts were, none of their three bytes is what it was.
    for count in (0, 255, 40253, 65535, 1 << 20):
        for fewer in range(-100, 100):
            other = count + fewer + seen[1]
            assert all(count >> bits & 255 != other >> bits & 255 for bits in (0, 8, 16))


def test_so_many_calls_are_made(fake):
    fake.fail(0)
    harvest.pass_calls(5)
    assert fake.calls == 5
    harvest.pass_calls(0)
    assert fake.calls == 5
    fake.fail(3)
    with pytest.raises(FoundryError, match="cuDeviceGet"):
        harvest.pass_calls(5)
