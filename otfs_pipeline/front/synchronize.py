"""Frames from a stream of samples off the air: first lock, tracking, relock; all that is fixed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from otfs_pipeline.front import OVERSAMPLING
from otfs_pipeline.front.align import Aligner, Alignment
from otfs_pipeline.front.balance import Balance
from otfs_pipeline.front.buffer import Buffer
from otfs_pipeline.front.detect import Detector
from otfs_pipeline.front.matched import MatchedFilter
from otfs_pipeline.link.frame import data_mask
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.pulse import centre_sample
from otfs_pipeline.waveform.slot import slot

# Symbols by which a preamble may come early or late, beside the delays of a channel that changes.
_SLACK = 4
# Frames over which the carrier offset is averaged: a path's Doppler changes, the offset hardly.
_CARRIER_MEMORY = 16
# Samples of a frame that DC and IQ imbalance are measured on, at most.
_MEASURED = 1 << 15


@dataclass(frozen=True)
class Found:
    """A frame [Q] complex64, and where its preamble begins: an index of the stream of samples.

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

    damaged: frames that were not given on, since samples of them are missing.
    """

    frames: int = 0
    locks: int = 0
    jumps: int = 0
    damaged: int = 0


class FrontEnd:
    """Takes a stream at OVERSAMPLING samples a symbol in pieces of any length, gives frames.

    What it gives depends on the samples alone, and not on the pieces: every step looks at samples
    whose places follow from those before.

    Searching, it looks for a preamble over a slot's length. A frame is given on once the next
    preamble shows that none of its samples is missing. Where that preamble is not found but the
    one after it is, it has faded. A preamble elsewhere is a jump: of the frames before it, those
    are given on whose strip is silent from end to end.
    """

    def __init__(self, settings: Settings) -> None:
        self.counts = Counts()
        self._settings, place = settings, slot(settings)
        self._step, self._centre = place.chips * OVERSAMPLING, place.centre * OVERSAMPLING
        self._half = place.half * OVERSAMPLING
        self._detector, self._aligner = Detector(settings), Aligner(settings)
        self._filter, self._balance = MatchedFilter(settings), Balance()
        self._margin = OVERSAMPLING * (settings.delay_taps + _SLACK)
        size = self._detector.size
        # What is looked at, from where a preamble begins: until a frame can be given on, and until
        # it is decided what has happened where the next preamble is not in its place.
        last = max(self._filter.span[1], self._aligner.span[1], self._step + size)
        self._near = last + self._margin + self._aligner.farthest
        self._far = self._step + self._margin + self._near
        self._before = size + self._margin + self._aligner.farthest
        self._before += max(0, -self._filter.span[0], -self._aligner.span[0])
        self._buffer = Buffer(self._before + self._far + 2 * self._step)
        # A stream may begin within a preamble, and is looked at from `before` earlier on.
        self._next = self._before
        self._origin = self._before + size // 2
        self._buffer.append(np.zeros(self._origin, np.complex64))
        self._start: int | None = None
        self._limit: int | None = None
        # Where the first frame since the last lock or jump begins.
        self._first: float | None = None
        self._carrier = 0j
        # The middle of a burst, where it has its full power, and of its samples those of data.
        quarter, count = settings.q // 4, settings.q // 2
        self._core = -OVERSAMPLING * quarter
        delays = (centre_sample(settings) + np.arange(count) - quarter) % settings.m
        data = np.flatnonzero(np.repeat(data_mask(settings)[delays, 0], OVERSAMPLING))
        self._data = data[:: -(-data.size // _MEASURED)]
        self._middle = OVERSAMPLING * count

    def push(self, samples: np.ndarray) -> Iterator[Found]:
        """The frames that these samples complete; [S] complex64."""
        while samples.size:
            piece = samples[: self._buffer.room]
            self._buffer.append(piece)
            samples = samples[piece.size :]
            yield from self._run()

    def lose(self, begin: int, end: int) -> None:
        """Samples begin to end-1 of the stream were lost, and zeros will be pushed in their place.

        Frames that have some of them are `damaged`.
        """
        self._buffer.lose(begin + self._origin, end + self._origin)

    def finish(self) -> Iterator[Found]:
        """The frames whose bursts are complete at the end of the stream."""
        self._limit = self._buffer.end
        rest = 2 * self._far
        while rest:
            piece = min(rest, self._buffer.room)
            self._buffer.append(np.zeros(piece, np.complex64))
            rest -= piece
            yield from self._run()

    def report(self) -> dict[str, Any]:
        """Counts, and what has been measured: carrier in Hz, DC and image over the signal in dB."""
        balance, found = self._balance, self.counts.frames > 0
        return {
            **asdict(self.counts),
            "carrier_hz": self._mean_carrier() if found else None,
            "dc_db": _decibels(abs(balance.dc) / balance.rms) if found else None,
            "image_db": _decibels(abs(balance.image)) if found else None,
        }

    def _run(self) -> Iterator[Found]:
        while True:
            if self._start is None:
                if self._buffer.end < self._next + self._step + self._detector.size:
                    return
                self._search()
            elif self._buffer.end < self._start + self._near:
                return
            elif (found := self._in_place(self._start)) is not None:
                yield from self._frame(self._start, False)
                self._start = found
            elif self._buffer.end < self._start + self._far:
                return
            else:
                yield from self._elsewhere(self._start)
            at = self._next if self._start is None else self._start
            self._buffer.drop(at - self._before)

    def _search(self) -> None:
        begin, self._next = self._next, self._next + self._step
        found = self._find(begin, self._next)
        if found is None:
            return
        self.counts.locks += 1
        self._first = None
        earlier = found - self._step
        if earlier + self._margin > begin:
            # The slot is as long as the search: a preamble at its beginning has a next one here.
            before = self._find(max(begin, earlier - self._margin), earlier + self._margin)
            found = found if before is None else before
        self._start = found

    def _in_place(self, start: int) -> int | None:
        """The next preamble, where it begins about a slot after this one."""
        expected = start + self._step
        return self._find(expected - self._margin, expected + self._margin)

    def _elsewhere(self, start: int) -> Iterator[Found]:
        """The next preamble is not in its place: it faded, or samples are missing or too many."""
        expected = start + self._step
        found = self._find(start + self._detector.size, expected - self._margin)
        if found is None:
            found = self._find(expected + self._margin, expected + self._step + self._margin)
            if found is not None and found - expected > self._step - 2 * self._margin:
                yield from self._frame(start, False)
                self._start = expected
                return
        yield from self._frame(start, True)
        self._start = found
        if found is None:
            self._next = expected - self._margin
            return
        self.counts.jumps += 1
        self._first = None
        if found - self._step > start + self._step // 2:
            # The preamble between was lost, though perhaps not its frame.
            yield from self._frame(found - self._step, True)

    def _find(self, begin: int, end: int) -> int | None:
        """The place of a preamble that begins at begin to end-1."""
        at = self._detector.find(self._buffer.view(begin, end + self._detector.size - 1))
        return None if at is None else begin + at

    def _frame(self, start: int, doubtful: bool) -> Iterator[Found]:
        """The frame whose preamble begins about `start`; none where samples of it are missing."""
        burst = start + self._centre - self._half, start + self._centre + self._half
        if self._limit is not None and burst[1] > self._limit:
            return
        begin = start - self._before
        samples = self._buffer.view(begin, start + self._near)
        core = samples[self._before + self._centre + self._core :][: self._middle]
        level = OVERSAMPLING * float(np.vdot(core, core).real) / core.size
        if not doubtful:
            self._balance.measure(core[self._data])
        samples = self._balance.correct(samples)
        found = self._aligner.align(samples, self._before, level)
        if found is None or self._buffer.lost(*burst) or (doubtful and not found.whole):
            # A preamble at the end of a stream has no frame.
            self.counts.damaged += not (doubtful and found is None)
            return
        self._carrier *= 1 - 1 / _CARRIER_MEMORY
        self._carrier += found.turn / max(abs(found.turn), 1e-30)
        at = self._before + found.delay
        self.counts.frames += 1
        carrier = self._carrier_of(found)
        received = self._filter.frame(samples, at, carrier)
        # The stream's own first sample comes after what was put before it.
        place = begin + at - self._origin
        if self._first is None:
            self._first = place
        drift = (place - self._first + self._step / 2) % self._step - self._step / 2
        yield Found(received, place, carrier, drift)

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


def _decibels(ratio: float) -> float | None:
    return 20 * math.log10(ratio) if ratio else None
