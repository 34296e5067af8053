"""When the steps were done by which slots of a waveform go through a receiver.

Each counts from the step before, the first from when the samples came that complete the next
preamble; together they are the latency.

arrival   the thread that reads takes these samples up: it woke late, or was still busy
stored    they are in the memory of the front end
found     the preamble has been found, and the slot is given on
taken     the loop begins the launch
launched  the launch is queued
sent      all samples are on the device
computed  the graph is done
copied    the results are in host memory
seen      the loop has them

What the device does has the device's own times. They are put on the host's clock by the slots near
by whose results were seen soonest; what is done while the launch is still queued takes no time.
`reader_busy` is the time from slot to slot in which the thread that reads does not wait.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from ctypes import c_int64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from foundryrt.native.idle import idle
from foundryrt.pipeline import Pipeline
from otfs_pipeline.frames.source import Frame
from otfs_pipeline.metrics import latency_percentiles

if TYPE_CHECKING:
    from foundryrt.pipeline import Arrays

STEPS = (
    "arrival", "stored", "found", "taken", "launched", "sent", "computed", "copied", "seen",
)  # fmt: skip
# Slots with the longest latencies, of which all steps are reported.
_WORST = 20
# Slots on either side by which the device's clock is put on the host's: clocks drift.
_NEAR = 100
_NEVER = c_int64(0)


@dataclass
class _Slot:
    samples: int
    came: float
    woke: float
    stored: float
    found: float
    waited: float
    place: int = -1
    taken: float = 0.0
    launched: float = 0.0
    seen: float = 0.0
    moments: tuple[float, float, float] = (0.0, 0.0, 0.0)


class Timeline:
    """Of one run, by `read`, around the frames that a source finds, and `pipeline`, a timed one."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._waited = self._woke = self._stored = 0.0
        # By the object that their samples are, until they are launched; then in order.
        self._read: dict[int, _Slot] = {}
        self._flying = deque[_Slot]()
        self._taken: list[_Slot] = []

    def wait_until(self, due: float) -> None:
        """Until `due`, in the thread that reads: as for a radio, the interpreter is free."""
        while (rest := due - (now := time.perf_counter())) > 0:
            idle(0, _NEVER, 0, rest)
            self._waited += rest
        self._woke = now

    def upload(self, values: np.ndarray) -> None:
        """See `Pipeline`."""
        self._stored = time.perf_counter()
        self.pipeline.upload(values)

    def read(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """The frames, in the thread that reads."""
        for frame in frames:
            now = time.perf_counter()
            samples = id(frame.samples)
            slot = _Slot(samples, frame.ready, self._woke, self._stored, now, self._waited)
            self._read[samples] = slot
            yield frame

    def submit(self, slot: int, values: Mapping[str, Any]) -> None:
        """See `Pipeline`."""
        read = self._read[id(values["waveform"])]
        read.place, read.taken = slot, time.perf_counter()
        self.pipeline.submit(slot, values)
        read.launched = time.perf_counter()
        self._flying.append(read)

    def wait(self, slot: int) -> Arrays:
        """See `Pipeline`."""
        outputs = self.pipeline.wait(slot)
        self._flying[0].seen = time.perf_counter()
        self._taken.append(self._flying.popleft())
        return outputs

    def take(self, frame: Frame, outputs: Arrays) -> None:
        """In the thread of the results, before the slot is launched again."""
        slot = next(one for one in reversed(self._taken) if one.samples == id(frame.samples))
        slot.moments = self.pipeline.moments(slot.place)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pipeline, name)

    def report(self) -> dict[str, Any] | None:
        """In ms, of all slots that had a frame; None of fewer than two."""
        slots = [slot for slot in self._taken if slot.moments[-1]]
        if len(slots) < 2:
            return None
        fields = ("came", "woke", "stored", "found", "taken", "launched")
        before = np.array([[getattr(slot, name) for slot in slots] for name in fields])
        device = np.array([slot.moments for slot in slots]).T
        seen = np.array([slot.seen for slot in slots])
        ends = np.vstack([before, device + _least_near(seen - device[-1]), seen])
        steps = np.diff(np.maximum.accumulate(ends), axis=0) * 1e3
        latency = (seen - before[0]) * 1e3
        late = steps - np.median(steps, axis=1)[:, None]
        worst = np.argsort(-latency)
        slowest = worst[: max(1, len(slots) // 100)]
        waits = np.array([slot.waited for slot in slots])
        return {
            "steps": {
                name: latency_percentiles(each) for name, each in zip(STEPS, steps, strict=True)
            },
            "reader_busy": latency_percentiles(np.diff(before[3] - waits) * 1e3),
            # Of the hundredth with the longest latencies, the step that was latest by its median.
            "late": Counter(STEPS[at] for at in late[:, slowest].argmax(axis=0)),
            "worst": [
                {"slot": at, "latency": float(latency[at]), "late": STEPS[late[:, at].argmax()]}
                | dict(zip(STEPS, steps[:, at].tolist(), strict=True))
                for at in worst[:_WORST].tolist()
            ],
        }


def _least_near(offsets: np.ndarray) -> np.ndarray:
    """The least of each and its neighbours: nothing is seen before it is there."""
    padded = np.pad(offsets, _NEAR, constant_values=np.inf)
    near = np.lib.stride_tricks.sliding_window_view(padded, 2 * _NEAR + 1)
    return np.asarray(near.min(axis=1))
