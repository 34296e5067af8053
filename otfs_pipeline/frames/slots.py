"""Slots of a waveform for a graph that has the front end: what it takes, and what it says."""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from otfs_pipeline.frames.source import UNKNOWN, Frame
from otfs_pipeline.front import OVERSAMPLING
from otfs_pipeline.front.reach import BURSTS, Reach
from otfs_pipeline.front.signature import FRONT, waveform_span
from otfs_pipeline.front.synchronize import Counts, Drift, report
from otfs_pipeline.front.track import Burst, Tracker
from otfs_pipeline.settings import Settings


@dataclass(frozen=True)
class SlotFrame(Frame):
    """A frame that is still in its slot's waveform, and the `Slots` that it is from."""

    slots: Slots = field(kw_only=True)
    burst: Burst = field(kw_only=True)

    @property
    def start(self) -> int:
        """About where the preamble begins: an index of the stream of samples."""
        return self.burst.start

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        doubtful = np.array(self.burst.doubtful, np.uint8)
        return {"waveform": self.samples, "doubtful": doubtful}

    def told(self, outputs: Mapping[str, np.ndarray]) -> Frame | None:
        found = self.slots.told(self.burst, outputs["front"])
        return found and replace(self, carrier_hz=found[0], drift_s=found[1])


def slot_memory(
    settings: Settings, slots: int, memory: Callable[[int], np.ndarray]
) -> list[np.ndarray]:
    """What `Slots` needs so that so many slots can be in use: arrays of several slots each.

    `memory` gives so many bytes from which the device copies directly.
    """
    shape = settings.stream_shape(Reach.of(settings, waveform_span(settings)).capacity)
    size = 8 * math.prod(shape)
    # Those in use may begin and end in the middle of an array, and one is being filled.
    count = 1 - (-(slots + BURSTS - 1) // BURSTS)
    return [memory(size).view(np.complex64).reshape(shape) for _ in range(count)]


class Slots:
    """In place of a `FrontEnd`: finds slots, and keeps their samples until they are done with.

    Samples are put into the arrays of `slot_memory` once, and slots are parts of these. `upload` is
    shown what has been put there, in the order in which it came.
    """

    def __init__(
        self,
        settings: Settings,
        memory: Sequence[np.ndarray],
        upload: Callable[[np.ndarray], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._free = deque(memory)
        self._shape = memory[0].shape
        self._tracker = Tracker(settings, waveform_span(settings), self._array, upload)
        self._drift = Drift(self._tracker.step)
        # What the thread of the source counts, and what the one that launches the graph does.
        self._lost, self._frames, self._damaged = 0, 0, 0
        self._front = [dict.fromkeys(FRONT, 0.0)] * settings.antennas

    def push(self, samples: np.ndarray) -> Iterator[SlotFrame]:
        """The slots that these samples complete; complex64 as `Settings.stream_shape`."""
        return self._given(self._tracker.push(samples))

    def space(self) -> np.ndarray:
        """Where samples of the stream can be put, instead of pushed; some of them at least."""
        return self._tracker.space()

    def restart(self) -> None:
        """Take another stream, from its first sample. What the graph has measured it keeps."""
        self._tracker.restart()

    def took(self, count: int) -> Iterable[SlotFrame]:
        """The slots that so many samples complete, which have been put into `space`."""
        bursts = self._tracker.took(count)
        return self._given(bursts) if bursts else ()

    def lose(self, begin: int, end: int) -> None:
        """Samples begin to end-1 of the stream were lost, and zeros will be pushed in their place.

        Frames that have some of them are `damaged`.
        """
        self._tracker.lose(begin, end)

    def finish(self) -> Iterator[SlotFrame]:
        """Those that are complete at the end of the stream."""
        return self._given(self._tracker.finish())

    def told(self, burst: Burst, front: np.ndarray) -> tuple[float, float] | None:
        """The frame's carrier offset in Hz and its drift in seconds, by FRONT; None without one.

        To be called in the order of the bursts.
        """
        each = [
            dict(zip(FRONT, antenna.tolist(), strict=True))
            for antenna in front.reshape(-1, len(FRONT))
        ]
        told = each[0]
        # A pilot elsewhere is of another link, which has the same preamble.
        is_astray = told["given"] == 1 and abs(told["delay"]) > self._tracker.margin
        self._damaged += told["given"] == 0 or is_astray
        if told["given"] != 1 or is_astray:
            return None
        self._front = each
        self._frames += 1
        late = self._drift.of(burst.start + told["delay"], burst.run)
        return told["carrier"], late / (OVERSAMPLING * self._settings.bandwidth)

    def report(self) -> dict[str, Any]:
        """As `FrontEnd.report`."""
        tracker = self._tracker
        counts = Counts(self._frames, tracker.locks, tracker.jumps, self._lost + self._damaged)
        dc = [abs(complex(of["dc_re"], of["dc_im"])) / (of["rms"] or 1.0) for of in self._front]
        image = [abs(complex(of["image_re"], of["image_im"])) for of in self._front]
        carrier = self._front[0]["mean_carrier"] if self._frames else None
        return report(counts, carrier, dc, image, tracker.far_carrier)

    def _given(self, bursts: Iterable[Burst]) -> Iterator[SlotFrame]:
        for burst in bursts:
            if burst.lost:
                self._lost += 1
                continue
            yield SlotFrame(burst.samples, UNKNOWN, slots=self, burst=burst)

    def _array(self) -> np.ndarray:
        """An array that is free again as soon as nobody has a part of it."""
        if not self._free:
            return np.empty(self._shape, np.complex64)
        memory = self._free.popleft()
        # Views of an array keep alive the one that owns a buffer, and none between.
        owner = np.frombuffer(memory.data, np.complex64)
        weakref.finalize(owner, self._free.append, memory)
        return owner.reshape(self._shape)
