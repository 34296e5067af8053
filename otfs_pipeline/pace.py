"""Frames at the pace of the air, and latecomers left out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from otfs_pipeline.source import Frame

# A sleep ends up to a tenth of a millisecond late; that much is spent in yields instead.
_COARSE = 2e-4


@dataclass
class Paced:
    """Yields frame i when its last sample would be there: i+1 frame lengths after the start.

    Frames that have waited for more than `limit` frame lengths are dropped, the oldest first, as a
    bounded queue would. A frame that the source brings late counts from when it came.
    """

    frames: Iterable[Frame]
    period: float
    limit: int
    dropped: int = 0
    late: int = 0

    def __iter__(self) -> Iterator[Frame]:
        start = time.perf_counter()
        for index, frame in enumerate(self.frames):
            due = start + (index + 1) * self.period
            self.late += frame.ready > due
            ready = max(due, frame.ready)
            if time.perf_counter() - ready > self.limit * self.period:
                self.dropped += 1
                continue
            sleep_until(due)
            yield replace(frame, ready=ready)


def sleep_until(due: float) -> None:
    """Return at `due` (time.perf_counter) or a few microseconds later; other threads go on."""
    while (rest := due - time.perf_counter()) > 0:
        time.sleep(rest - _COARSE if rest > _COARSE else 0)
