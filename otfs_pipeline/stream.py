"""Frame after frame through the receiver, several in flight, each one timed."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np

from foundryrt.pipeline import Pipeline
from otfs_pipeline.samples import finite
from otfs_pipeline.source import Frame

# A thread that computes in Python would else keep the others waiting for 5 ms, two frames long.
_SWITCH_SECONDS = 2e-4


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
    good: bool


def receive(
    frames: Iterable[Frame],
    pipeline: Pipeline,
    samples: int,
    take: Callable[[Frame, Mapping[str, np.ndarray]], None],
    stop: threading.Event,
    seen: Callable[[Tally], None] = lambda _: None,
) -> Tally:
    """Send `frames` of that many samples through, until they end or `stop`; broken ones count only.

    One thread submits, another waits for results in order and gives them to `take` (and the tally
    to `seen`), so that a frame's copies run beside its neighbours. What `take` raises ends the run.
    """
    tally, free, flying = Tally(), SimpleQueue[int](), SimpleQueue[_Flight | None]()
    failure: list[BaseException] = []
    for slot in range(pipeline.depth):
        free.put(slot)

    def finish() -> None:
        while (flight := flying.get()) is not None:
            try:
                outputs = pipeline.wait(flight.slot)
                end = time.perf_counter()
                if flight.good and not failure:
                    tally.milliseconds.append((end - flight.start) * 1e3)
                    tally.seconds = end - began
                    take(flight.frame, outputs)
                    seen(tally)
            except BaseException as error:
                failure.append(error)
                stop.set()
            free.put(flight.slot)

    finisher = threading.Thread(target=finish, name="results")
    began = time.perf_counter()
    finisher.start()
    try:
        with _undisturbed():
            for frame in frames:
                if stop.is_set():
                    break
                if frame.samples.shape != (samples,):
                    tally.wrong_length += 1
                    continue
                slot = free.get()
                start = frame.ready or time.perf_counter()
                pipeline.submit(slot, {"samples": frame.samples})
                # Looked at while the device computes: a broken frame spoils only its own results.
                good = finite(frame.samples)
                tally.not_finite += not good
                flying.put(_Flight(slot, frame, start, good))
    finally:
        flying.put(None)
        finisher.join()
    if failure:
        raise failure[0]
    return tally


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
