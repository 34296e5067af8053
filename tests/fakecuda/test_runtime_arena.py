"""The arena on the stand-in driver: placing, mapping, exporting, undoing."""

from __future__ import annotations

import ctypes
import mmap
import os

import pytest

from foundryrt.bundle.schema import Region, Requirements
from foundryrt.cuda.arena import Arena
from foundryrt.cuda.device import open_device
from foundryrt.cuda.driver import driver
from foundryrt.errors import FoundryError, UsageError
from foundryrt.undo import Undo
from tests.fakecuda import bundle as counters

REGIONS = (
    Region(name="weights", base=counters.BASE, size=5),
    Region(name="symmetric", base=counters.STATE, size=(2 << 20) + 1),
    Region(name="io", base=counters.IO, size=0),
)


@pytest.fixture
def undo(fake):
    with Undo() as opened:
        yield opened
    assert fake.live == ""


def arena(undo: Undo, regions=REGIONS, exportable: bool = False) -> Arena:
    needs = Requirements(memory=0, architecture="sm_90", driver=13000)
    return Arena(open_device(driver(), 0, needs, undo), regions, undo, exportable)


def test_a_region_is_exported_as_a_file_descriptor(undo, fake):
    made = arena(undo, exportable=True)
    descriptor = made.export("symmetric")
    assert made.export("symmetric") == descriptor
    assert os.fstat(descriptor).st_size == 4 << 20
    with mmap.mmap(descriptor, 4 << 20) as seen:
        seen[7] = 42
        assert ctypes.string_at(counters.STATE + 7, 1) == bytes([42])
    undo.close()
    with pytest.raises(OSError):
        os.fstat(descriptor)


def test_what_cannot_be_exported_is_named(undo, fake):
    made = arena(undo)
    with pytest.raises(UsageError, match="symmetric: the arena was not made for other processes"):
        made.export("symmetric")
    for name in ("io", "none"):
        with pytest.raises(UsageError, match=rf"no region '{name}'.*'weights', 'symmetric'"):
            made.export(name)


def test_without_memory_nothing_is_reserved(undo, fake):
    arena(undo, REGIONS[2:])
    assert fake.live == "context 1 "


def test_any_failing_call_undoes_everything(fake):
    def use() -> None:
        with Undo() as undo:
            arena(undo, exportable=True).export("weights")

    fake.fail(0)
    use()
    total, descriptors = fake.calls, len(os.listdir("/proc/self/fd"))
    for call in range(1, total + 1):
        fake.fail(call)
        with pytest.raises(FoundryError, match="CUDA_ERROR_OUT_OF_MEMORY"):
            use()
        assert fake.live == "" and len(os.listdir("/proc/self/fd")) == descriptors
    assert total > 10
