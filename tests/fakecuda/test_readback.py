"""Readbacks on the stand-in driver: what each copies, what it waits for, undoing."""

from __future__ import annotations

import numpy as np
import pytest

from foundryrt.errors import FoundryError, UsageError
from foundryrt.session import Session
from tests.fakecuda import bundle as counters

INITIAL = counters.INITIAL.astype(np.int32)


@pytest.fixture
def path(tmp_path, fake):
    return counters.write(tmp_path / "counters.fdy")


def test_a_readback_has_what_the_launches_before_it_gave(path, fake):
    with Session.open(path) as session:
        graph = session.graph("step", by=11)
        first, second = (graph.readback("result") for _ in range(2))
        assert first.overlaps
        for number in range(3):
            graph.launch()
            first.start()
            graph.launch()
            second.start()
            np.testing.assert_array_equal(first.wait(), INITIAL + 11 * (2 * number + 1))
            np.testing.assert_array_equal(second.wait(), INITIAL + 11 * (2 * number + 2))
            np.testing.assert_array_equal(first.wait(), INITIAL + 11 * (2 * number + 1))
    assert fake.live == ""


def test_waiting_is_for_no_more_than_the_copy(path, fake):
    """The next launch, which is queued behind it, need not have run."""
    with Session.open(path) as session:
        session.wait()  # the graphs that are made meanwhile make calls, too
        graph = session.graph("step", by=11)
        readback = graph.readback("result")
        graph.launch()
        readback.start()
        graph.launch()
        fake.fail(0)
        readback.wait()
        assert fake.calls == 1  # cuEventSynchronize
        np.testing.assert_array_equal(graph.read("result"), INITIAL + 22)


def test_a_readback_that_nobody_waits_for_is_freed_after_its_copy(path, fake):
    session = Session.open(path)
    graph = session.graph("step", by=11)
    graph.launch()
    graph.readback("state").start()
    session.close()
    assert fake.live == ""


def test_an_unknown_tensor_is_refused(path, fake):
    with Session.open(path) as session, pytest.raises(UsageError, match="no tensor 'none'"):
        session.graph("step", by=11).readback("none")


def test_any_failing_call_leaves_nothing_half_made(path, fake):
    def use(session: Session) -> None:
        graph = session.graph("step", by=11)
        readback = graph.readback("result")
        graph.launch()
        readback.start()
        readback.wait()

    with Session.open(path) as session:
        session.wait()
        use(session)
        fake.fail(0)
        use(session)
        assert fake.calls == 6
        for call in range(1, 7):
            before = fake.live
            fake.fail(call)
            with pytest.raises(FoundryError, match="CUDA_ERROR_OUT_OF_MEMORY"):
                use(session)
            # Two calls make a readback, which is there until the session is closed.
            assert (fake.live == before) == (call <= 2)
        fake.fail(0)
        use(session)
    assert fake.live == ""
