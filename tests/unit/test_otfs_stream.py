"""The stream: order, broken frames, pacing, bounded queues, stopping and what fails on the way."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from ctypes import c_int64

import numpy as np
import pytest

from foundryrt.errors import FoundryError
from foundryrt.host.pipeline import HostPipeline
from otfs_pipeline.frames import stream
from otfs_pipeline.frames.pace import Paced
from otfs_pipeline.frames.queue import FrameQueue
from otfs_pipeline.frames.source import UNKNOWN, Frame

SIZE = 8


def frames(count: int) -> list[Frame]:
    return [Frame(np.full(SIZE, i + 1, np.complex64), UNKNOWN) for i in range(count)]


class Doubler:
    """A pipeline whose graph doubles its samples, in a given time; their sum is the variance."""

    def __init__(self, seconds: float = 0.0, depth: int = 3) -> None:
        self.samples, self.bits = np.zeros(SIZE, np.complex64), np.zeros(SIZE, np.float32)
        self.variance = np.zeros((), np.float32)
        self.seconds = seconds
        outputs = {"bits": self.bits, "variance": self.variance}
        self.pipeline = HostPipeline(
            self.launch, nullcontext(), {"samples": self.samples}, outputs, depth
        )

    def launch(self) -> None:
        time.sleep(self.seconds)
        np.add(self.samples.real, self.samples.real, out=self.bits)
        self.variance[...] = self.samples.view(np.float32).sum()


class Empty(Frame):
    """A slot that turns out to have no frame."""

    def told(self, outputs: Mapping[str, np.ndarray]) -> None:
        return None


def receive(
    source, pipeline, take=lambda frame, outputs: None, stop=None, **options
) -> stream.Tally:
    return stream.receive(source, pipeline, (SIZE,), take, stop or threading.Event(), **options)


@pytest.mark.parametrize("depth", [1, 3])
def test_results_come_in_order_with_their_frames(depth: int) -> None:
    got = []

    def take(frame: Frame, outputs: Mapping[str, np.ndarray]) -> None:
        got.append((frame.samples[0].real, outputs["bits"][-1]))

    tally = receive(frames(20), Doubler(depth=depth).pipeline, take)
    assert got == [(i + 1, 2 * (i + 1)) for i in range(20)]
    assert tally.frames == 20 and tally.seconds > 0
    assert min(tally.milliseconds) >= 0


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("most", [1, 2, 4])
def test_no_more_frames_are_received_than_asked_for(
    monkeypatch: pytest.MonkeyPatch, most: int, depth: int
) -> None:
    pipeline, left = Doubler(depth=depth).pipeline, 0
    submit = pipeline.submit

    def submit_later(*arguments) -> None:
        nonlocal left
        left = 1
        submit(*arguments)

    def done(slot: int) -> bool:
        """Not when first asked after a launch: the loop may launch more."""
        nonlocal left
        left -= 1
        return left < 0

    monkeypatch.setattr(pipeline, "submit", submit_later)
    monkeypatch.setattr(pipeline, "done", done)
    sent = frames(8)
    sent[3].samples[0] = np.nan
    source = [
        Empty(sent[0].samples, UNKNOWN),
        *sent[:2],
        Empty(sent[0].samples, UNKNOWN),
        *sent[2:],
    ]
    tally = receive(source, pipeline, most=most)
    assert tally.frames + tally.not_finite == most
    assert tally.not_finite == (most == 4)


def test_broken_frames_are_counted_and_never_taken() -> None:
    mixed = frames(5)
    mixed[1] = Frame(np.ones(SIZE - 1, np.complex64), UNKNOWN)
    for index, value in ((2, np.nan), (3, 1j * np.inf)):
        mixed[index].samples[3] = value
    taken = []
    tally = receive(mixed, Doubler().pipeline, lambda f, _: taken.append(f.samples[0].real))
    assert taken == [1, 5]
    assert (tally.frames, tally.wrong_length, tally.not_finite) == (2, 1, 2)


def test_a_frame_that_comes_while_the_source_is_asked_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    word, pipeline = c_int64(0), Doubler().pipeline
    polled = list[tuple[int | None, bool]]()
    asked = itertools.count()

    def source() -> Iterator[Frame | None]:
        for frame in frames(6):
            word.value += 1
            yield None
            yield frame

    def idle(slot: int | None, given: c_int64, seen: int, seconds: float) -> None:
        assert given is word and 0 < seconds < 0.01
        polled.append((slot, given.value != seen))

    monkeypatch.setattr(pipeline, "done", lambda slot: next(asked) % 3 == 2)
    monkeypatch.setattr(pipeline, "idle", idle)
    assert receive(source(), pipeline, word=word).frames == 6
    # What has been launched is polled for, too.
    assert {slot for slot, _ in polled} >= {None, 0}
    assert all(changed for slot, changed in polled[:6])


def test_a_queues_word_changes_with_every_frame_and_at_its_end() -> None:
    step, stop = threading.Semaphore(0), threading.Event()

    def source() -> Iterator[Frame]:
        for frame in frames(3):
            step.acquire()
            yield frame
        step.acquire()

    queue = FrameQueue(source(), 8, False, stop)
    for _ in range(4):
        before = queue.word.value
        step.release()
        until = time.monotonic() + 10
        while queue.word.value == before and time.monotonic() < until:
            time.sleep(1e-3)
        assert queue.word.value > before
    assert sum(frame is not None for frame in queue) == 3
    queue.close()


def test_latency_counts_from_the_last_sample() -> None:
    early = time.perf_counter() - 0.5
    late = [Frame(f.samples, UNKNOWN, early) for f in frames(2)]
    tally = receive(late, Doubler().pipeline)
    assert min(tally.milliseconds) > 500
    flat_out = receive(frames(2), Doubler(seconds=0.02).pipeline)
    assert 20 <= min(flat_out.milliseconds) < 500


def test_stop_ends_an_endless_source() -> None:
    stop, source = threading.Event(), frames(1)

    def endless() -> Iterator[Frame]:
        while True:
            yield source[0]

    tally = receive(endless(), Doubler().pipeline, lambda frame, outputs: stop.set(), stop)
    assert tally.frames >= 1


@pytest.mark.parametrize("where", ["take", "source", "submit"])
def test_what_fails_ends_the_run_and_is_raised(where: str) -> None:
    def fail(*_: object) -> None:
        raise FoundryError(where)

    def source() -> Iterator[Frame]:
        yield from frames(3)
        if where == "source":
            fail()

    doubler = Doubler()
    if where == "submit":
        doubler.pipeline._launch = fail
    before = threading.active_count()
    with pytest.raises(FoundryError, match=where):
        receive(source(), doubler.pipeline, fail if where == "take" else lambda *_: None)
    assert threading.active_count() == before


def test_paced_frames_come_at_their_time() -> None:
    period = 0.01
    start = time.perf_counter()
    paced = Paced(frames(5), period, limit=8)
    ready = [frame.ready - start for frame in paced if frame]
    assert time.perf_counter() - start >= 5 * period
    np.testing.assert_allclose(np.diff(ready), period, rtol=1e-6)
    assert (paced.dropped, paced.late) == (0, 0)


def test_a_receiver_that_is_too_slow_loses_the_oldest_frames() -> None:
    paced = Paced(frames(40), 0.005, limit=2)
    tally = receive(paced, Doubler(seconds=0.02, depth=1).pipeline)
    assert tally.frames + paced.dropped == 40
    assert paced.dropped >= 20
    assert np.median(tally.milliseconds) > 5


def test_a_late_source_is_told_apart_from_a_slow_receiver() -> None:
    came: list[float] = []

    def late() -> Iterator[Frame]:
        for frame in frames(3):
            time.sleep(0.02)
            came.append(time.perf_counter())
            yield Frame(frame.samples, UNKNOWN, came[-1])

    paced = Paced(late(), 0.001, limit=3)
    tally = receive(paced, Doubler().pipeline)
    ended = time.perf_counter()
    assert (tally.frames, paced.dropped, paced.late) == (3, 0, 3)
    # From its own time on, the last frame was due 57 ms before it came.
    assert tally.milliseconds[-1] <= 1e3 * (ended - came[-1])


def test_a_full_queue_drops_its_oldest_frames() -> None:
    queue = FrameQueue(frames(10), 3, True, threading.Event())
    queue._thread.join()
    assert [f.samples[0].real for f in queue if f] == [8, 9, 10]
    assert queue.dropped == 7


def test_a_full_queue_holds_the_source_up() -> None:
    queue = FrameQueue(frames(10), 3, False, threading.Event())
    time.sleep(0.05)
    assert [f.samples[0].real for f in queue if f] == list(range(1, 11))
    assert queue.dropped == 0
    stuck = FrameQueue(frames(10), 1, False, threading.Event())
    stuck.close()
    assert list(stuck) == []


def test_a_queue_raises_what_its_source_raised() -> None:
    def broken() -> Iterator[Frame]:
        yield frames(1)[0]
        raise FoundryError("the antenna fell off")

    queue = FrameQueue(broken(), 4, True, threading.Event())
    with pytest.raises(FoundryError, match="antenna"):
        list(queue)
