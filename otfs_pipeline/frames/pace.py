"""Frames at the pace of the air, and latecomers left out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from otfs_pipeline.frames.source import Frame

# A sleeping thread may wake late, on a busy machine by milliseconds: the rest is waited awake.
_COARSE = 20e-3


@dataclass
class Paced:
    """Yields frame i when its last sample would be there: i+1 frame lengths after the start.

    Until then it yields None, so that whoever asks can do something else. Frames that have waited
    for more than `limit` frame lengths are dropped, the oldest first, as a bounded queue would. A
    frame that the source brings late counts from when it came.
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
    """Return at `due` (time.perf_counter) or microseconds later; other threads go on."""
    while (rest := due - time.perf_counter()) > 0:
        time.sleep(rest - _COARSE if rest > _COARSE else 0)
