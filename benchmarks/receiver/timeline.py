"""When the steps were done by which slots of a waveform go through a receiver.

read: its last samples, those that complete the next preamble, are in the memory of the front end,
and the preamble has been found; taken: the launch is begun; launched: it is queued; results: they
are in host memory. Each counts from the step before, the first from when these samples came.
`reader_busy` is the time from slot to slot in which the thread that reads does not wait.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from ctypes import c_int64
from typing import Any

import numpy as np

from foundryrt.native.idle import idle
from foundryrt.pipeline import Pipeline
from otfs_pipeline.frames.source import Frame
from otfs_pipeline.metrics import latency_percentiles

STEPS = ("read", "taken", "launched", "results")
# Slots with the longest latencies, of which all steps are reported.
_WORST = 20
_NEVER = c_int64(0)


class Timeline:
    """Of one run, by `read`, around the frames that a source finds, and `pipeline`."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._came: list[float] = []
        self._read: list[float] = []
        self._waits: list[float] = []
        self._taken: list[float] = []
        self._launched: list[float] = []
        self._waited = 0.0

    def wait_until(self, due: float) -> None:
        """Until `due`, in the thread that reads: as for a radio, the interpreter is free."""
        while (rest := due - time.perf_counter()) > 0:
            idle(0, _NEVER, 0, rest)
            self._waited += rest

    def read(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """The frames, in the thread that reads."""
        for frame in frames:
            self._came.append(frame.ready)
            self._read.append(time.perf_counter())
            self._waits.append(self._waited)
            yield frame

    def submit(self, slot: int, values: Mapping[str, Any]) -> None:
        """See `Pipeline`."""
        self._taken.append(time.perf_counter())
        self.pipeline.submit(slot, values)
        self._launched.append(time.perf_counter())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pipeline, name)

    def report(self, milliseconds: np.ndarray) -> dict[str, Any] | None:
        """In ms, with the latencies of all slots.

        None of fewer than two, or where some were dropped or had no frame.
        """
        if not len(self._came) == len(self._taken) == len(milliseconds) > 1:
            return None
        came = np.array(self._came)
        ends = np.array([self._read, self._taken, self._launched, came + milliseconds / 1e3])
        steps = np.diff(ends, axis=0, prepend=came[None]) * 1e3
        worst = np.argsort(-milliseconds)[:_WORST].tolist()
        return {
            "steps": {
                name: latency_percentiles(each) for name, each in zip(STEPS, steps, strict=True)
            },
            "reader_busy": latency_percentiles(np.diff(ends[0] - np.array(self._waits)) * 1e3),
            "worst": [
                {"slot": at, "latency": float(milliseconds[at])}
                | dict(zip(STEPS, steps[:, at].tolist(), strict=True))
                for at in worst
            ],
        }
