"""Pipelines on the stand-in driver: results of each slot, buffers, undoing."""

from __future__ import annotations

from ctypes import c_int32, c_int64
from threading import Thread

import numpy as np
import pytest

from foundryrt.cuda import pipeline as pipeline_module
from foundryrt.errors import FoundryError, UsageError
from foundryrt.session import Session
from tests.fakecuda import bundle as counters

ADDED = 11  # by graph `step` by=11 to the state, whose copy is the result


@pytest.fixture
def path(tmp_path, fake):
    return counters.write(tmp_path / "counters.fdy")


@pytest.fixture(params=[False, True], ids=["small", "large"], autouse=True)
def large(request, monkeypatch):
    """Whether tensors, all of few bytes here, are copied as large ones are."""
    if request.param:
        monkeypatch.setattr(pipeline_module, "_SMALL", 0)
    return request.param


def frame(value: int) -> np.ndarray:
    return np.full(counters.COUNT, value, np.int32)


def test_every_slot_keeps_its_own_results(path, fake):
    with Session.open(path) as session:
        session.wait()  # the graphs that are made meanwhile make calls, too
        pipeline = session.graph("step", by=11).pipeline(("state",), ("result",), depth=3)
        for slot in range(3):
            pipeline.submit(slot, {"state": frame(100 * slot)})
        results = [pipeline.wait(slot)["result"] for slot in range(3)]
        for slot, result in enumerate(results):
            np.testing.assert_array_equal(result, frame(100 * slot + ADDED))
        pipeline.submit(1, {"state": frame(7)})
        fake.fail(1, 600)
        assert not pipeline.done(1)
        assert pipeline.done(1)
        assert (pipeline.wait(1)["result"] == 7 + ADDED).all()
        assert (results[0] == ADDED).all()
        pipeline.close()
    assert fake.live == ""


def test_a_lazy_output_is_copied_when_it_is_asked_for(path, fake, large):
    def calls(session: Session, lazy: tuple[str, ...], ask: bool) -> int:
        pipeline = session.graph("step", by=11).pipeline(("state",), ("result",), 2, lazy)
        fake.fail(0)
        for slot in range(2):
            pipeline.submit(slot, {"state": frame(100 * slot)})
        results = [pipeline.wait(slot) for slot in range(2)]
        assert list(results[1]) == ["result"] and len(results[1]) == 1
        for slot, result in enumerate(results if ask else []):
            np.testing.assert_array_equal(result["result"], frame(100 * slot + ADDED))
        made = fake.calls
        pipeline.close()
        return made

    with Session.open(path) as session:
        session.wait()  # the graphs that are made meanwhile make calls, too
        calls(session, (), ask=True)  # the first launch makes calls of its own
        eager = calls(session, (), ask=True)
        # Small ones go to the host at once, others to the slot's own memory on the device first.
        asked, left = (0, -2) if large else (2, 0)
        assert calls(session, ("result",), ask=True) == eager + asked
        assert calls(session, ("result",), ask=False) == eager + left
    assert fake.live == ""


def test_staging_arrays_are_sent_as_they_are(path, fake):
    with Session.open(path) as session:
        pipeline = session.graph("step", by=11).pipeline(("state",), ("result",), depth=1)
        staged = pipeline.staging("state")
        for value in (3, 5):
            staged[...] = value
            pipeline.submit(0, {"state": staged})
            assert (pipeline.wait(0)["result"] == value + ADDED).all()
        pipeline.close()
    assert fake.live == ""


def test_parts_of_memory_are_sent_as_they_are(path, fake):
    with Session.open(path) as session:
        pipeline = session.graph("step", by=11).pipeline(("state",), ("result",), depth=1)
        _, memory, _ = (pipeline.memory(12 * counters.COUNT) for _ in range(3))
        copied = pipeline._slots[0].inputs["state"].view
        whole = memory.view(np.int32)
        parts = [whole[at : at + counters.COUNT] for at in (0, 1, 2 * counters.COUNT)]
        for value, part in enumerate(parts, 3):
            part[...] = value
            pipeline.submit(0, {"state": part})
            assert (pipeline.wait(0)["result"] == value + ADDED).all()
            assert not copied.any()
        # What is elsewhere, not dense, or goes on behind it, goes through the slot's own memory.
        gaps = whole[::2][: counters.COUNT]
        end = memory.ctypes.data + memory.size
        across = (c_int32 * counters.COUNT).from_address(end - 4)  # Whole pages are there.
        for value, other in enumerate((gaps, frame(0), np.frombuffer(across, np.int32)), 50):
            other[...] = value
            pipeline.submit(0, {"state": other})
            assert (pipeline.wait(0)["result"] == value + ADDED).all()
            assert (copied == value).all()
        pipeline.close()
    assert fake.live == ""


def test_values_go_ahead_of_their_launch(path, fake):
    with Session.open(path) as session:
        pipeline = session.graph("step", by=11).pipeline(("state",), ("result",), depth=2)
        other, memory = (pipeline.memory(12 * counters.COUNT, ahead) for ahead in (False, True))
        whole, elsewhere = memory.view(np.int32), other.view(np.int32)[: counters.COUNT]
        whole[:] = np.arange(whole.size)
        for part in (whole[:5], whole[5:], elsewhere, frame(0)):
            pipeline.upload(part)
        for slot, begin in ((0, 3), (1, 2 * counters.COUNT)):
            pipeline.submit(slot, {"state": whole[begin : begin + counters.COUNT]})
            expected = ADDED + np.arange(begin, begin + counters.COUNT)
            np.testing.assert_array_equal(pipeline.wait(slot)["result"], expected)
        # What has not been uploaded is not looked at, but where memory is of the other kind.
        whole[:3], elsewhere[:] = 70, 80
        pipeline.upload(whole[1:2])
        for slot, values in ((0, whole[: counters.COUNT]), (1, elsewhere)):
            pipeline.submit(slot, {"state": values})
        first, second = (pipeline.wait(slot)["result"] for slot in (0, 1))
        assert first[:4].tolist() == [ADDED, ADDED + 70, ADDED + 2, ADDED + 3]
        assert (second == 80 + ADDED).all()
        pipeline.close()
    assert fake.live == ""


@pytest.mark.parametrize("ends", ["done", "word", "time"])
def test_idling_ends_with_the_launch_or_the_word_or_the_time(path, fake, ends):
    with Session.open(path) as session:
        pipeline = session.graph("step", by=11).pipeline(("state",), ("result",), depth=1)
        pipeline.submit(0, {"state": frame(1)})
        word = c_int64(7)
        slot, seconds = (0 if ends == "done" else None), (1e-3 if ends == "time" else 1e3)
        thread = Thread(target=pipeline.idle, args=(slot, word, 7, seconds), daemon=True)
        thread.start()
        if ends == "word":
            thread.join(0.05)
            assert thread.is_alive()
            word.value = 8
        thread.join(10)
        assert not thread.is_alive()
        pipeline.close()
    assert fake.live == ""


def test_a_timed_pipeline_says_when_the_device_was_done(path, fake):
    with Session.open(path) as session:
        graph = session.graph("step", by=11)
        pipeline = graph.pipeline(("state",), ("result",), depth=2, timed=True)
        ends = []
        for slot in (0, 1, 0):
            pipeline.submit(slot, {"state": frame(slot)})
            pipeline.wait(slot)
            ends.extend(pipeline.moments(slot))
        assert ends[0] > 0 and ends == sorted(ends) and len(set(ends)) == len(ends)
        pipeline.close()
        pipeline = graph.pipeline(("state",), ("result",), depth=1)
        pipeline.submit(0, {"state": frame(1)})
        pipeline.wait(0)
        with pytest.raises(UsageError, match="timed"):
            pipeline.moments(0)
        pipeline.close()
    assert fake.live == ""


def test_what_does_not_fit_is_refused(path, fake):
    with Session.open(path) as session:
        graph = session.graph("step", by=11)
        with pytest.raises(UsageError, match="depth 0"):
            graph.pipeline(("state",), ("result",), depth=0)
        with pytest.raises(UsageError, match="no tensor 'none'"):
            graph.pipeline(("none",), ("result",))
        with pytest.raises(UsageError, match="lazy state: name outputs"):
            graph.pipeline(("state",), ("result",), lazy=("state",))
        pipeline = graph.pipeline(("state",), ("result",))
        for wrong in ({}, {"result": frame(1)}, {"state": frame(1), "more": frame(1)}):
            with pytest.raises(UsageError, match="a launch takes state"):
                pipeline.submit(0, wrong)
        for wrong in (frame(1)[1:], frame(1).astype(np.int64)):
            with pytest.raises(UsageError, match="state is int32"):
                pipeline.submit(0, {"state": wrong})
        pipeline.close()
    assert fake.live == ""


def test_buffers_outlive_the_copies_in_flight(path, fake):
    with Session.open(path) as session:
        pipeline = session.graph("step", by=11).pipeline(("state",), ("result",))
        pipeline.submit(0, {"state": pipeline.staging("state")})
        pipeline.close()
        assert "freed before" not in fake.live


def test_any_failing_call_undoes_everything(path, fake):
    def use(session: Session) -> None:
        graph = session.graph("step", by=11)
        pipeline = graph.pipeline(("state",), ("result",), depth=2, lazy=("result",))
        try:
            ahead = pipeline.memory(4 * counters.COUNT, ahead=True).view(np.int32)
            pipeline.upload(ahead)
            pipeline.submit(0, {"state": ahead})
            pipeline.wait(0)
            pipeline.submit(0, {"state": pipeline.staging("state")})
            pipeline.submit(1, {"state": frame(2)})
            pipeline.done(0)
            assert (pipeline.wait(1)["result"] == 2 + ADDED).all()
        finally:
            pipeline.close()

    def calls(session: Session) -> int:
        fake.fail(0)
        use(session)
        return fake.calls

    with Session.open(path) as session:
        session.wait()
        use(session)
        total, before = calls(session), fake.live
        for call in range(1, total + 1):
            fake.fail(call)
            with pytest.raises(FoundryError, match="CUDA_ERROR_OUT_OF_MEMORY"):
                use(session)
            assert fake.live == before, f"call {call} of {total}"
        fake.fail(0)
        use(session)
    assert fake.live == ""


def test_what_is_closed_makes_no_driver_call(path, fake):
    with Session.open(path) as session:
        graph = session.graph("step", by=11)
        first, second = (graph.pipeline(("state",), ("result",)) for _ in "ab")
        readback, tensor = graph.readback("result"), graph.tensor("result")
        first.close()
        for call in (
            lambda: first.submit(0, {"state": frame(0)}),
            lambda: first.done(0),
            lambda: first.wait(0),
            lambda: first.staging("state"),
        ):
            with pytest.raises(UsageError, match="the pipeline is closed"):
                call()
        second.submit(0, {"state": frame(0)})
        for slot in (-1, 3):
            with pytest.raises(UsageError, match=f"slot {slot}: the pipeline has 0 to 2"):
                second.submit(slot, {"state": frame(0)})
    for call in (lambda: second.submit(0, {"state": frame(0)}), lambda: second.wait(0)):
        with pytest.raises(UsageError, match="the pipeline is closed"):
            call()
    for call in (
        readback.start, readback.wait, tensor.read, tensor.__dlpack__,
        lambda: tensor.write(frame(0)),
    ):  # fmt: skip
        with pytest.raises(UsageError, match="the session is closed"):
            call()
    assert fake.live == ""


def test_sizes_and_parts_that_cannot_be_are_refused(path, fake):
    with Session.open(path) as session:
        graph = session.graph("step", by=11)
        pipeline = graph.pipeline(("state",), ("result",))
        memory = pipeline.memory(4096, ahead=True)
        with pytest.raises(UsageError, match="without gaps"):
            pipeline.upload(memory[::2])
        for size in (-1, 1.5, 1 << 70):
            with pytest.raises(UsageError, match="memory of a pipeline"):
                pipeline.memory(size)
        with pytest.raises(UsageError, match="gaps between them"):
            graph.tensor("result").write_bytes(memory[:128:2])
