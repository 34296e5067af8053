"""Frames from a stream of samples off the air: what is found of each burst, and taken off it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from otfs_pipeline.front import OVERSAMPLING
from otfs_pipeline.front.align import Aligner, Alignment
from otfs_pipeline.front.balance import Balance, burst_core, data_samples
from otfs_pipeline.front.matched import MatchedFilter
from otfs_pipeline.front.track import Burst, Tracker
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.slot import slot

CARRIER_MEMORY = 16
"""Frames over which the carrier offset is averaged: a path's Doppler changes, the offset hardly."""


@dataclass(frozen=True)
class Found:
    """A frame's samples, as the receiver takes them, and where its preamble begins: an index of the
    stream of samples.

    `carrier_hz` is the offset that was taken out, `drift` by how many samples the frame comes
    later than whole slots after the first one since the last lock or jump.
    """

    samples: np.ndarray
    start: float
    carrier_hz: float
    drift: float


@dataclass
class Counts:
    """locks: preambles found by a search; jumps: preambles that came elsewhere than expected.

    damaged: frames that were not given on, since samples of them are missing, or their pilot is not
    where the preamble says.
    """

    frames: int = 0
    locks: int = 0
    jumps: int = 0
    damaged: int = 0


class Drift:
    """By how many samples frames come later than whole slots after the first one of their run."""

    def __init__(self, step: int) -> None:
        self._step, self._run, self._first = step, 0, 0.0

    def of(self, place: float, run: int) -> float:
        """Of the frame whose preamble begins at `place`; runs in the order of the stream."""
        if run != self._run:
            self._run, self._first = run, place
        return (place - self._first + self._step / 2) % self._step - self._step / 2


class FrontEnd:
    """Takes a stream at OVERSAMPLING samples a symbol in pieces of any length, gives frames.

    What it gives depends on the samples alone, and not on the pieces. Of the bursts that are
    doubtful, those are given on whose strip is silent from end to end.
    """

    def __init__(self, settings: Settings) -> None:
        self._damaged = self._frames = 0
        self._settings = settings
        self._aligner, self._filter = Aligner(settings), MatchedFilter(settings)
        self._forget()
        spans, farthest = (self._aligner.span, self._filter.span), self._aligner.farthest
        first = min(span[0] for span in spans) - farthest
        self._before = max(-first, 0)
        self._tracker = Tracker(
            settings, (-self._before, max(span[1] for span in spans) + farthest)
        )
        self._drift = Drift(self._tracker.step)
        core, self._middle = burst_core(settings)
        self._core = self._before + OVERSAMPLING * slot(settings).centre + core
        self._data = data_samples(settings)

    def _forget(self) -> None:
        self._balance = [Balance() for _ in range(self._settings.antennas)]
        self._carrier = 0j

    def restart(self) -> None:
        """Take another stream, from its first sample: of another carrier, so nothing that was
        measured holds. Counts go on.
        """
        self._forget()
        self._tracker.restart()

    @property
    def counts(self) -> Counts:
        return Counts(self._frames, self._tracker.locks, self._tracker.jumps, self._damaged)

    def push(self, samples: np.ndarray) -> Iterator[Found]:
        """The frames that these samples complete; complex64 as `Settings.stream_shape`."""
        for burst in self._tracker.push(samples):
            yield from self._frame(burst)

    def space(self) -> np.ndarray:
        """Where samples of the stream can be put, instead of pushed; some of them at least."""
        return self._tracker.space()

    def took(self, count: int) -> Iterator[Found]:
        """The frames that so many samples complete, which have been put into `space`."""
        for burst in self._tracker.took(count):
            yield from self._frame(burst)

    def lose(self, begin: int, end: int) -> None:
        """Samples begin to end-1 of the stream were lost, and zeros will be pushed in their place.

        Frames that have some of them are `damaged`.
        """
        self._tracker.lose(begin, end)

    def finish(self) -> Iterator[Found]:
        """The frames whose bursts are complete at the end of the stream."""
        for burst in self._tracker.finish():
            yield from self._frame(burst)

    def report(self) -> dict[str, Any]:
        """Counts, and what has been measured: carrier in Hz, DC and image over the signal in dB."""
        carrier = self._mean_carrier() if self._frames else None
        dc = [abs(one.dc) / one.rms for one in self._balance]
        image = [abs(one.image) for one in self._balance]
        return report(self.counts, carrier, dc, image, self._tracker.far_carrier)

    def _frame(self, burst: Burst) -> Iterator[Found]:
        """The burst's frame; none where samples of it are missing."""
        core = burst.samples[self._core :][: self._middle]
        level = OVERSAMPLING * float(np.vdot(core, core).real) / len(core)
        antennas = np.ascontiguousarray(burst.samples.T).reshape(-1, len(burst.samples))
        each = list(zip(self._balance, antennas, strict=True))
        if not burst.doubtful:
            for balance, antenna in each:
                balance.measure(antenna[self._core :][self._data])
        corrected = [balance.correct(antenna) for balance, antenna in each]
        samples = corrected[0] if len(corrected) == 1 else np.stack(corrected, axis=1)
        found = self._aligner.align(samples, self._before, level)
        # A pilot elsewhere is of another link, which has the same preamble.
        is_astray = found is not None and abs(found.delay) > self._tracker.margin
        if found is None or is_astray or burst.lost or (burst.doubtful and not found.whole):
            # A preamble at the end of a stream has no frame.
            self._damaged += not (burst.doubtful and found is None)
            return
        self._carrier *= 1 - 1 / CARRIER_MEMORY
        self._carrier += found.turn / max(abs(found.turn), 1e-30)
        self._frames += 1
        carrier = self._carrier_of(found)
        begin = self._before + found.delay
        frames = [self._filter.frame(antenna, begin, carrier) for antenna in corrected]
        received = np.reshape(frames, self._settings.frame_shape)
        place = burst.start + found.delay
        yield Found(received, place, carrier, self._drift.of(place, burst.run))

    def _carrier_of(self, found: Alignment) -> float:
        """In Hz: whole Doppler bins by the mean of many frames, the fraction by this one.

        Of frames with a prefix nothing is folded that would have to be in phase.
        """
        if self._settings.waveform == "cp":
            return self._mean_carrier()
        seconds = self._settings.frame_seconds
        fraction = np.angle(found.frame_turn) / (2 * np.pi)
        return float(round(self._mean_carrier() * seconds - fraction) + fraction) / seconds

    def _mean_carrier(self) -> float:
        return float(np.angle(self._carrier) / (2 * np.pi)) * self._settings.nu_p


def report(
    counts: Counts,
    carrier_hz: float | None,
    dc: Sequence[float],
    image: Sequence[float],
    far_carrier_hz: float | None,
) -> dict[str, Any]:
    """Counts, and what has been measured; `dc` over the signal, and the image, as amplitudes.

    Of each antenna; where there are several, lists. No `carrier_hz`: there has been no frame.
    `far_carrier_hz`: of a preamble that was passed over (see `Tracker`).
    """

    def decibels(each: Sequence[float]) -> float | list[float | None] | None:
        found = [_decibels(ratio) if carrier_hz is not None else None for ratio in each]
        return found[0] if len(found) == 1 else found

    return {
        **asdict(counts),
        "carrier_hz": carrier_hz,
        "far_carrier_hz": far_carrier_hz,
        "dc_db": decibels(dc),
        "image_db": decibels(image),
    }


def _decibels(ratio: float) -> float | None:
    return 20 * math.log10(ratio) if ratio else None
