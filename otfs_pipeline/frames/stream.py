"""Frame after frame through the receiver, several in flight, each one timed."""

from __future__ import annotations

import gc
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np

from foundryrt.pipeline import Pipeline
from otfs_pipeline.frames.source import Frame

# A thread that computes in Python would else keep the others waiting for 5 ms, two frames long.
_SWITCH_SECONDS = 2e-4
# After so many seconds without work the loop sleeps between two looks.
_QUIET, _NAP = 0.05, 1e-3

Outputs = Mapping[str, np.ndarray]


@dataclass
class Tally:
    """What a run has seen. `milliseconds` are latencies: last sample there to results in memory."""

    milliseconds: list[float] = field(default_factory=list)
    wrong_length: int = 0
    not_finite: int = 0
    seconds: float = 0.0

    @property
    def frames(self) -> int:
        """Frames whose results are counted."""
        return len(self.milliseconds)


@dataclass(frozen=True)
class _Flight:
    slot: int
    frame: Frame
    start: float


def receive(
    frames: Iterable[Frame | None],
    pipeline: Pipeline,
    samples: int,
    take: Callable[[Frame, Outputs], None],
    stop: threading.Event,
    seen: Callable[[Tally], None] = lambda _: None,
) -> Tally:
    """Send `frames` of that many samples through, until they end or `stop`; broken ones count only.

    None among the frames means that none is there yet. The loop never waits for a lock or an
    event, it looks: a thread that sleeps may wake late. Nor does it look at samples, which takes
    milliseconds where others use the memory too: output `variance` says whether results are
    finite. A second thread gives results in order to `take`; what that raises ends the run.
    """
    tally, flying, source = Tally(), deque[_Flight](), iter(frames)
    ended, began = False, time.perf_counter()
    busy = began
    with _Taker(take, pipeline.depth) as taker, _undisturbed():
        while not taker.failure:
            if flying and pipeline.done(flying[0].slot):
                busy, good = _finish(flying.popleft(), pipeline, taker, tally)
                if good:
                    tally.seconds = busy - began
                    seen(tally)
                continue
            ended = ended or stop.is_set()
            if ended and not flying:
                break
            if not ended and taker.free:
                try:
                    frame = next(source)
                except StopIteration:
                    ended = True
                    continue
                if frame is not None:
                    if frame.samples.shape == (samples,):
                        flying.append(_submit(frame, pipeline, taker.free.popleft()))
                    else:
                        tally.wrong_length += 1
                    continue
            time.sleep(_NAP if time.perf_counter() - busy > _QUIET else 0)
    return tally


def _submit(frame: Frame, pipeline: Pipeline, slot: int) -> _Flight:
    start = frame.ready or time.perf_counter()
    pipeline.submit(slot, {"samples": frame.samples})
    return _Flight(slot, frame, start)


def _finish(flight: _Flight, pipeline: Pipeline, taker: _Taker, tally: Tally) -> tuple[float, bool]:
    """When the results were there, and whether they are finite."""
    outputs = pipeline.wait(flight.slot)
    end = time.perf_counter()
    good = math.isfinite(outputs["variance"])
    if good:
        tally.milliseconds.append((end - flight.start) * 1e3)
        taker.queue.put((flight.slot, flight.frame, outputs))
    else:
        tally.not_finite += 1
        taker.free.append(flight.slot)
    return end, good


class _Taker:
    """A thread that calls `take` and then gives the slot back to `free`."""

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

    def __enter__(self) -> _Taker:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.queue.put(None)
        self._thread.join()
        if kind is None and self.failure is not None:
            raise self.failure


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No garbage collection, and short turns between threads."""
    switch, collecting = sys.getswitchinterval(), gc.isenabled()
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.disable()
    try:
        yield
    finally:
        sys.setswitchinterval(switch)
        if collecting:
            gc.enable()
