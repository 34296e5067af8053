"""The stream of frames through the receiver: several in flight, the latency of each measured."""

from __future__ import annotations

import gc
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from ctypes import c_int64
from queue import SimpleQueue

import numpy as np

from foundryrt.pipeline import Pipeline
from otfs_pipeline.frames.flights import Flight, Flights, Tally
from otfs_pipeline.frames.queue import FrameQueue
from otfs_pipeline.frames.source import Frame

# By default a thread that computes in Python keeps the others waiting for 5 ms: two frames.
_SWITCH_SECONDS = 5e-5
# After this many seconds without work, the loop sleeps this long between two polls.
_IDLE_AFTER, _IDLE_SLEEP = 0.05, 1e-3
# After so many seconds it looks for a frame, or a slot of the pipeline, of which nothing tells it.
_GLANCE = 5e-6

Outputs = Mapping[str, np.ndarray]


def receive(
    frames: Iterable[Frame | None],
    pipeline: Pipeline,
    shape: tuple[int, ...],
    take: Callable[[Frame, Outputs], None],
    stop: threading.Event,
    seen: Callable[[Tally], None] = lambda _: None,
    tally: Tally | None = None,
    most: float = math.inf,
    queue: FrameQueue | None = None,
) -> Tally:
    """Receive `frames` of samples of this shape until they end or `stop` is set.

    None among the frames means that none has arrived yet. Frames of another shape, and those
    without finite results, are only counted. The loop polls and never waits for a lock or an
    event: a thread that sleeps may wake late. It polls without the interpreter's lock, for which a
    thread that reads would wait; with `queue`, from which the frames come, until one has come. The
    queue's thread launches those of a `direct` one itself. Samples are not read here, which takes
    milliseconds on a machine whose memory is busy: output `variance` tells whether the results are
    finite. A second thread passes results to `take` in order; an exception there ends the run.
    `seen` is called after each frame. `tally` is counted on where one is given, and may be looked
    at meanwhile. The run ends after `most` frames; a slot that turns out to have none is not
    counted.
    """
    tally = Tally() if tally is None else tally
    word = c_int64(0) if queue is None else queue.word
    source, ended, began = iter(frames), False, time.perf_counter()
    busy = began
    with (
        _Consumer(take, pipeline.depth) as consumer,
        _undisturbed(),
        closing(Flights(pipeline, shape, consumer.free, tally, most)) as flights,
    ):
        under_way = flights.under_way
        if queue is not None and queue.direct:
            queue.take = flights.take
        while not consumer.failure:
            came = word.value
            if under_way and pipeline.done(under_way[0].slot):
                busy, good = _finish(under_way[0], pipeline, consumer, tally)
                under_way.popleft()
                if good:
                    tally.seconds = busy - began
                    seen(tally)
                continue
            if ended := ended or stop.is_set() or flights.left <= 0:
                flights.close()
                if not under_way:
                    break
            else:
                try:
                    if _launched(source, flights):
                        continue
                except StopIteration:
                    ended = True
                    continue
            if not under_way and time.perf_counter() - busy > _IDLE_AFTER:
                time.sleep(_IDLE_SLEEP)
            else:
                slot = under_way[0].slot if under_way else None
                is_told = queue is not None and consumer.free
                pipeline.idle(slot, word, came, _IDLE_SLEEP if is_told else _GLANCE)
    return tally


def _launched(source: Iterator[Frame | None], flights: Flights) -> bool:
    """Launch the source's next frame, unless none has come, or there is no room for one."""
    with flights.turn() as is_mine:
        frame = next(source) if is_mine else None
        if frame is not None:
            flights.launch(frame)
    return frame is not None


def _finish(
    flight: Flight, pipeline: Pipeline, consumer: _Consumer, tally: Tally
) -> tuple[float, bool]:
    """When the results were in host memory (time.perf_counter), and whether they are finite."""
    outputs = pipeline.wait(flight.slot)
    end = time.perf_counter()
    frame = flight.frame.told(outputs)
    if frame is not None and math.isfinite(outputs["variance"]):
        tally.milliseconds.append((end - flight.start) * 1e3)
        consumer.queue.put((flight.slot, frame, outputs))
        return end, True
    tally.not_finite += frame is not None
    consumer.free.append(flight.slot)
    return end, False


class _Consumer:
    """A thread that calls `take` and then returns the slot to `free`."""

    def __init__(self, take: Callable[[Frame, Outputs], None], depth: int) -> None:
        self.free = deque(range(depth))
        self.queue = SimpleQueue[tuple[int, Frame, Outputs] | None]()
        self.failure: BaseException | None = None
        self._take = take
        self._thread = threading.Thread(target=self._run, name="results")

    def _run(self) -> None:
        while (item := self.queue.get()) is not None:
            slot, frame, outputs = item
            try:
                if self.failure is None:
                    self._take(frame, outputs)
            except BaseException as error:
                self.failure = error
            self.free.append(slot)

    def __enter__(self) -> _Consumer:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.queue.put(None)
        self._thread.join()
        if kind is None and self.failure is not None:
            raise self.failure


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No garbage collection, and short switch intervals between threads."""
    switch, collecting = sys.getswitchinterval(), gc.isenabled()
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.disable()
    try:
        yield
    finally:
        sys.setswitchinterval(switch)
        if collecting:
            gc.enable()
