"""The arena at capture, on the stand-in driver: addresses, memory, undoing."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from ctypes import byref, c_uint64

import pytest

from foundryc.native import check, library
from foundryrt.errors import FoundryError

BASE, CAPACITY = 0x610000000000, 1 << 30
STATE, SCRATCH, SYMMETRIC = 1, 3, 4
PAGE = 2 << 20
CHUNK = 32 << 20
"""Bytes of physical memory that are mapped at once."""


@pytest.fixture
def core(fake) -> Iterator:
    yield library()
    library().foundryc_close_arena()
    assert fake.live == ""


def opened(base: int = BASE) -> None:
    check(library().foundryc_open_arena(base, CAPACITY, 0))


def allocate(region: int, size: int, alignment: int = 256) -> int:
    address = c_uint64()
    check(library().foundryc_allocate(region, size, alignment, byref(address)))
    return address.value


def test_the_same_calls_give_the_same_addresses(core, fake):
    found = []
    for _ in range(2):
        opened()
        found.append([allocate(STATE, 1), allocate(SCRATCH, 300), allocate(STATE, 256, 4096)])
        assert core.foundryc_used(STATE) == 2 * 4096
        core.foundryc_close_arena()
        assert fake.live == "" and core.foundryc_used(STATE) == 0
    region = BASE + STATE * CAPACITY
    assert found[0] == found[1] == [region, BASE + SCRATCH * CAPACITY, region + 4096]


def test_what_was_released_is_handed_out_again_as_one_range(core):
    opened()
    core.foundryc_free.argtypes = (c_uint64, c_uint64, c_uint64, c_uint64)
    blocks = [allocate(SCRATCH, 1024) for _ in range(4)]
    for block in (blocks[0], blocks[2], blocks[1], blocks[1], BASE):
        core.foundryc_free(block, 0, 0, 0)
    assert allocate(SCRATCH, 3 * 1024) == blocks[0]
    assert allocate(SCRATCH, 1) == blocks[3] + 1024


def test_memory_is_mapped_as_it_is_used(core, fake):
    opened()
    assert fake.live == "reservation 1 "
    allocate(SCRATCH, CHUNK + 1)
    assert fake.live == "mapping 2 memory 2 reservation 1 "
    allocate(SCRATCH, CHUNK - 256)
    assert "memory 2" in fake.live


def slabs(count: int, stride: int, own: int) -> int:
    address = c_uint64()
    check(library().foundryc_place_slabs(SYMMETRIC, count, stride, own, byref(address)))
    return address.value


@pytest.mark.parametrize("own", range(3))
def test_of_slabs_the_first_has_memory_and_the_own_one(core, fake, own):
    opened()
    base = slabs(3, CHUNK + PAGE, own)
    assert base == BASE + SYMMETRIC * CAPACITY
    assert core.foundryc_used(SYMMETRIC) == 3 * (CHUNK + PAGE)
    count = 2 if own else 1
    assert fake.live == f"mapping {count} memory {count} reservation 1 "
    for slab in {0, own}:
        for at in (0, CHUNK + PAGE - 1):
            ctypes.memset(base + slab * (CHUNK + PAGE) + at, 1, 1)
    with pytest.raises(FoundryError, match="region of the arena is full"):
        allocate(SYMMETRIC, 1)
    with pytest.raises(FoundryError, match="the region is in use"):
        slabs(3, PAGE, 0)


@pytest.mark.parametrize("wrong", [(2, PAGE, 2), (2, 0, 0), (3, CAPACITY // 2, 0), (1 << 60,) * 3])
def test_slabs_that_do_not_fit_are_refused(core, fake, wrong):
    opened()
    with pytest.raises(FoundryError, match="do not fit the region"):
        slabs(*wrong)
    assert fake.live == "reservation 1 "
    assert slabs(2, CAPACITY // 2 // PAGE * PAGE, 1) == BASE + SYMMETRIC * CAPACITY


def test_any_failing_call_leaves_no_slab(core, fake):
    opened()
    for call in range(1, 7):
        fake.fail(call)
        with pytest.raises(FoundryError, match=r"\(arena\): CUDA_ERROR_OUT_OF_MEMORY"):
            slabs(3, PAGE, 2)
        assert fake.live == "reservation 1 "
        assert library().foundryc_used(SYMMETRIC) == 0
    fake.fail(7)
    slabs(3, PAGE, 2)


@pytest.mark.parametrize("size", [CAPACITY + 1, (1 << 64) - 1])
def test_a_full_region_is_refused(core, size):
    opened()
    allocate(STATE, CAPACITY)
    for region in (STATE, SCRATCH):
        with pytest.raises(FoundryError, match="region of the arena is full"):
            allocate(region, size)


def test_one_arena_is_open_at_addresses_that_are_free(core, fake):
    for use in (lambda: allocate(STATE, 1), lambda: allocate(9, 1)):
        with pytest.raises(FoundryError, match="not open"):
            use()
    with pytest.raises(FoundryError, match="are taken in this process"):
        opened(id(core) // 4096 * 4096)
    assert fake.live == ""
    opened()
    with pytest.raises(FoundryError, match="open already"):
        opened()
    with pytest.raises(FoundryError, match="no region 9"):
        allocate(9, 1)


def test_any_failing_call_undoes_everything(core, fake):
    def steps() -> list[Callable[[], object]]:
        return [opened, lambda: allocate(STATE, 2 * CHUNK), lambda: allocate(SCRATCH, 1)]

    fake.fail(0)
    for step in steps():
        step()
    total = fake.calls
    assert total == 1 + 3 * 3
    core.foundryc_close_arena()
    for call in range(1, total + 1):
        fake.fail(call)
        with pytest.raises(FoundryError, match=r"\(arena\): CUDA_ERROR_OUT_OF_MEMORY"):
            for step in steps():
                step()
        # What had been mapped stays usable, and the call that failed can be made again.
        if call > 1:
            assert fake.live.count("reservation 1") == 1
            assert allocate(STATE, CHUNK) >= BASE
        core.foundryc_close_arena()
        assert fake.live == "", f"call {call}"
