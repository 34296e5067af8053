"""The stream of frames through the receiver: several in flight, the latency of each measured."""

from __future__ import annotations

import gc
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from ctypes import c_int64
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np

from foundryrt.pipeline import Pipeline
from otfs_pipeline.frames.source import Frame

# By default a thread that computes in Python keeps the others waiting for 5 ms: two frames.
_SWITCH_SECONDS = 5e-5
# After this many seconds without work, the loop sleeps this long between two polls.
_IDLE_AFTER, _IDLE_SLEEP = 0.05, 1e-3
# After so many seconds it looks for a frame, or a slot of the pipeline, of which nothing tells it.
_GLANCE = 5e-6

Outputs = Mapping[str, np.ndarray]


@dataclass
class Tally:
    """Counts of a run. `milliseconds` are latencies: from a frame's last sample to its results."""

    milliseconds: list[float] = field(default_factory=list)
    wrong_length: int = 0
    not_finite: int = 0
    seconds: float = 0.0

    @property
    def frames(self) -> int:
        """Frames with finite results."""
        return len(self.milliseconds)


@dataclass(frozen=True)
class _InFlight:
    slot: int
    frame: Frame
    start: float


def receive(
    frames: Iterable[Frame | None],
    pipeline: Pipeline,
    shape: tuple[int, ...],
    take: Callable[[Frame, Outputs], None],
    stop: threading.Event,
    seen: Callable[[Tally], None] = lambda _: None,
    tally: Tally | None = None,
    most: float = math.inf,
    word: c_int64 | None = None,
) -> Tally:
    """Receive `frames` of samples of this shape until they end or `stop` is set.

    None among the frames means that none has arrived yet. Frames of another shape, and those
    without finite results, are only counted. The loop polls and never waits for a lock or an
    event: a thread that sleeps may wake late. It polls without the interpreter's lock, for which a
    thread that reads would wait; `word` changes whenever a frame has come. It reads no samples
    either, which takes milliseconds on a machine whose memory is busy: output `variance` tells
    whether the results are finite. A second thread passes results to `take` in order; an
    exception there ends the run. `seen` is called after each frame. `tally` is counted on where one
    is given, and may be looked at meanwhile. The run ends after `most` frames; a slot that turns
    out to have none is not counted.
    """
    tally = Tally() if tally is None else tally
    in_flight, source = deque[_InFlight](), iter(frames)
    ended, began = False, time.perf_counter()
    busy, is_told = began, word is not None
    word = c_int64(0) if word is None else word
    with _Consumer(take, pipeline.depth) as consumer, _undisturbed():
        while not consumer.failure:
            came = word.value
            if in_flight and pipeline.done(in_flight[0].slot):
                busy, good = _finish(in_flight.popleft(), pipeline, consumer, tally)
                if good:
                    tally.seconds = busy - began
                    seen(tally)
                continue
            left = most - tally.frames - tally.not_finite
            ended = ended or stop.is_set() or left <= 0
            if ended and not in_flight:
                break
            # What is in flight may be all that is left.
            if not ended and consumer.free and len(in_flight) < left:
                try:
                    frame = next(source)
                except StopIteration:
                    ended = True
                    continue
                if frame is not None:
                    if frame.samples.shape == shape:
                        in_flight.append(_submit(frame, pipeline, consumer.free.popleft()))
                    else:
                        tally.wrong_length += 1
                    continue
            if not in_flight and time.perf_counter() - busy > _IDLE_AFTER:
                time.sleep(_IDLE_SLEEP)
            else:
                slot = in_flight[0].slot if in_flight else None
                patience = _IDLE_SLEEP if is_told and consumer.free else _GLANCE
                pipeline.idle(slot, word, came, patience)
    return tally


def _submit(frame: Frame, pipeline: Pipeline, slot: int) -> _InFlight:
    start = frame.ready or time.perf_counter()
    pipeline.submit(slot, frame.inputs)
    return _InFlight(slot, frame, start)


def _finish(
    flight: _InFlight, pipeline: Pipeline, consumer: _Consumer, tally: Tally
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
