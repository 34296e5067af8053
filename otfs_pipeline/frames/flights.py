"""Launches of the receiver that are under way, and the counts of a run."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from foundryrt.pipeline import Pipeline
from otfs_pipeline.frames.source import Frame


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
class Flight:
    """A frame whose launch was given at `start` (time.perf_counter), or whose last sample was."""

    slot: int
    frame: Frame
    start: float


class Flights:
    """The launches under way, in order. Two threads may launch, and one of them ends launches.

    `free` are the slots of the pipeline that nobody uses. After `most` frames of a `tally` nothing
    is launched any more.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        shape: tuple[int, ...],
        free: deque[int],
        tally: Tally,
        most: float,
    ) -> None:
        self.under_way = deque[Flight]()
        self._pipeline, self._shape, self._free = pipeline, shape, free
        self._tally, self._most = tally, most
        self._turn = threading.Lock()
        self._closed = False

    @property
    def left(self) -> float:
        """How many frames may still come."""
        return self._most - self._tally.frames - self._tally.not_finite

    @contextmanager
    def turn(self) -> Iterator[bool]:
        """Whether `launch` may be called: there is room, and no other thread is at it."""
        if not self._turn.acquire(blocking=False):
            yield False
            return
        try:
            # What is under way may be all that is left.
            yield not self._closed and bool(self._free) and len(self.under_way) < self.left
        finally:
            self._turn.release()

    def launch(self, frame: Frame) -> None:
        """Launch a frame, or count it where it has another shape."""
        if frame.samples.shape != self._shape:
            self._tally.wrong_length += 1
            return
        slot, start = self._free.popleft(), frame.ready or time.perf_counter()
        self._pipeline.submit(slot, frame.inputs)
        self.under_way.append(Flight(slot, frame, start))

    def take(self, frame: Frame) -> bool:
        """Launch a frame if that is possible at once."""
        with self.turn() as is_mine:
            if is_mine:
                self.launch(frame)
        return is_mine

    def close(self) -> None:
        """From here on nothing is launched."""
        with self._turn:
            self._closed = True
