"""Frames at the rate at which they would arrive over the air; overruns are dropped."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from otfs_pipeline.frames.source import Frame

# A sleeping thread may wake milliseconds late on a busy machine: the rest is waited by polling.
_COARSE = 20e-3


@dataclass
class Paced:
    """Yields frame i when its last sample would arrive: i+1 frame durations after the start.

    Until then it yields None, so that the receiver can poll for results. Frames that have waited
    for more than `limit` frame durations are dropped, the oldest first, as from a bounded queue. A
    frame that its source delivers late is due when it is delivered.
    """

    frames: Iterable[Frame | None]
    period: float
    limit: int
    dropped: int = 0
    late: int = 0

    def __iter__(self) -> Iterator[Frame | None]:
        due = time.perf_counter()
        for frame in self.frames:
            if frame is None:
                yield None
                continue
            due += self.period
            self.late += frame.ready > due
            ready = max(due, frame.ready)
            if time.perf_counter() - ready > self.limit * self.period:
                self.dropped += 1
                continue
            while time.perf_counter() < due:
                yield None
            yield replace(frame, ready=ready)


def sleep_until(due: float) -> None:
    """Return at `due` (time.perf_counter) or microseconds later; other threads run meanwhile."""
    while (rest := due - time.perf_counter()) > 0:
        time.sleep(rest - _COARSE if rest > _COARSE else 0)
