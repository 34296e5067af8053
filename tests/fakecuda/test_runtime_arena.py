"""The arena on the stand-in driver: placing, mapping, exporting, undoing."""

from __future__ import annotations

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
    Region(name="state", base=counters.STATE, size=(2 << 20) + 1),
    Region(name="io", base=counters.IO, size=0),
)


@pytest.fixture
def undo(fake):
    with Undo() as opened:
        yield opened
    assert fake.live == ""


def arena(undo: Undo, regions=REGIONS) -> Arena:
    needs = Requirements(memory=0, architecture="sm_90", driver=13000)
    return Arena(open_device(driver(), 0, needs, undo), regions, undo)


def test_regions_without_memory_are_named(undo, fake):
    made = arena(undo)
    assert made.mapped("state") == counters.STATE
    for name in ("io", "none"):
        with pytest.raises(UsageError, match=rf"no region '{name}'.*'state', 'weights'"):
            made.mapped(name)


def test_without_memory_nothing_is_reserved(undo, fake):
    arena(undo, REGIONS[2:])
    assert fake.live == "context 1 "


def test_any_failing_call_undoes_everything(fake):
    def use() -> None:
        with Undo() as undo:
            arena(undo)

    fake.fail(0)
    use()
    total = fake.calls
    for call in range(1, total + 1):
        fake.fail(call)
        with pytest.raises(FoundryError, match="CUDA_ERROR_OUT_OF_MEMORY"):
            use()
        assert fake.live == ""
    assert total > 10
