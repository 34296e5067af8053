"""Frames from a source of raw samples: resampled, synchronized, matched-filtered."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from foundryrt.errors import FoundryError, UsageError, install
from foundryrt.native.front_core import awake_threads
from otfs_pipeline.frames.intake import take
from otfs_pipeline.frames.slots import SlotFrame, Slots
from otfs_pipeline.frames.source import UNKNOWN, Frame
from otfs_pipeline.frames.wire import Counts
from otfs_pipeline.front import OVERSAMPLING
from otfs_pipeline.front.buffer import PIECE
from otfs_pipeline.front.synchronize import Found, FrontEnd
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.slot import slot

if TYPE_CHECKING:
    import soxr

# Rates are at most so many times the front end's.
_FASTEST = 64
# Slots that are filled in for samples that were lost: after a longer loss, timing is found anew.
_FILLED = 3
# Payloads that wait for their frames, at most: without a lock they wait in vain.
_KNOWN = 64
# A resampler looks so many samples ahead and back.
_BLUR = 64


class Raw:
    """The front end of one run; samples come at `rate` a second, 0 for the front end's own.

    With `memory`, the graph has the front end: what is given on are slots, kept in these arrays,
    whose parts `upload` is shown (see `Slots`). UsageError for a rate below the waveform's
    bandwidth.
    """

    def __init__(
        self,
        settings: Settings,
        rate: float,
        memory: Sequence[np.ndarray] | None = None,
        upload: Callable[[np.ndarray], None] = lambda _: None,
    ) -> None:
        own = settings.bandwidth * OVERSAMPLING
        rate = rate or own
        occupied = settings.bandwidth * (1 + settings.rolloffs[0])
        if not occupied <= rate <= _FASTEST * own:
            raise UsageError(
                f"{rate:g} samples a second: the waveform occupies {occupied:g} Hz; give --raw "
                f"samples at a rate from there to {_FASTEST * own:g}"
            )
        self._settings = settings
        self._front = Slots(settings, memory, upload) if memory else FrontEnd(settings)
        self._ratio = own / rate
        self.slot_samples = slot(settings).seconds * rate
        self._filled = int(_FILLED * self.slot_samples)
        same, channels = abs(self._ratio - 1) < 1e-9, 2 * settings.antennas
        self._made = None if same else partial(_resampler, rate, own, channels)
        self._resampler = self._made() if self._made else None
        # What the resampler takes next.
        given = PIECE if self._resampler else 0
        # Numpy's front end takes far longer than this.
        self._threads = awake_threads() if memory else 1
        self._given = np.empty(settings.stream_shape(given), np.complex64)
        self._taken = self._ended = 0
        self._known: deque[tuple[float, np.ndarray, np.ndarray]] = deque(maxlen=_KNOWN)
        self.watch: Callable[[np.ndarray], None] | None = None
        """Is shown all samples, at the front end's rate, [S] or [antennas, S]."""

    def frames(self, pieces: Iterable[Frame], counts: Counts) -> Iterator[Frame]:
        """Frames of a stream of samples in pieces of any length, as `undecoded` gives them.

        Those of several antennas are interleaved, or [antennas, S].

        A piece's payload is that of the frame whose preamble begins with it. Pieces that `counts`
        counts as lost are taken to be as long as the one before. Where a piece is `retuned` a
        stream ends, and another begins.
        """
        lost, missing, size = counts.lost, counts.missing, 0
        for piece in pieces:
            gone = counts.missing - missing or (counts.lost - lost) * size
            samples = self._interleaved(piece.samples)
            lost, missing, size = counts.lost, counts.missing, len(samples)
            if piece.retuned:
                yield from self._end()
                self._restart()
            if gone:
                shape = self._settings.stream_shape(min(gone, self._filled))
                zeros = np.zeros(shape, np.complex64)
                self._lose(0, len(zeros))
                yield from self._push(zeros, piece.ready)
            if piece.bits.size:
                self._known.append((self._taken * self._ratio, piece.bits, piece.coded))
            yield from self._push(samples, piece.ready)
        yield from self._end()

    def _end(self) -> Iterator[Frame]:
        """The frames that are complete at the end of a stream."""
        if self._resampler is not None:
            nothing = np.zeros((0, 2 * self._settings.antennas), np.float32)
            rest = self._resampler.resample_chunk(nothing, last=True)
            yield from self._resampled(rest)
        yield from map(self._received, self._front.finish())

    def _restart(self) -> None:
        self._front.restart()
        self._resampler = self._made() if self._made else None
        self._ended, self._taken = self._ended + self._taken, 0
        self._known.clear()

    def report(self) -> dict[str, Any]:
        """What came, in samples at the source's rate; what the front end counted and measured, and
        whether the graph has it.
        """
        in_graph = isinstance(self._front, Slots)
        return {"samples": self._ended + self._taken, **self._front.report(), "in_graph": in_graph}

    def _push(self, samples: np.ndarray, ready: float) -> Iterator[Frame]:
        while len(samples):
            space = self._front.space() if self._resampler is None else self._given
            space = space[: len(samples)]
            self._take(samples[: len(space)], space)
            samples = samples[len(space) :]
            if self._resampler is not None:
                parts = space.view(np.float32).reshape(len(space), -1)
                yield from self._resampled(self._resampler.resample_chunk(parts), ready)
                continue
            if self.watch:
                self.watch(space.T)
            for found in self._front.took(len(space)):
                yield self._received(found, ready)

    def _resampled(self, parts: np.ndarray, ready: float = 0.0) -> Iterator[Frame]:
        samples = np.ascontiguousarray(parts).view(np.complex64)
        samples = samples.reshape(self._settings.stream_shape(len(parts)))
        if self.watch:
            self.watch(samples.T)
        for found in self._front.push(samples):
            yield self._received(found, ready)

    def _interleaved(self, samples: np.ndarray) -> np.ndarray:
        """A piece of several antennas with a row for each sample; what fills none is left out."""
        antennas = self._settings.antennas
        if antennas == 1:
            return samples
        if samples.ndim == 2 and samples.dtype == np.complex64:
            return np.ascontiguousarray(samples.T)
        whole = len(samples) // antennas
        return samples[: whole * antennas].reshape(whole, antennas, *samples.shape[1:])

    def _take(self, samples: np.ndarray, to: np.ndarray) -> None:
        # What the resampler takes is read at once.
        streamed = self._resampler is None and isinstance(self._front, Slots)
        for begin, end in take(samples, to, streamed, self._threads):
            self._lose(begin, end)
        self._taken += len(to)

    def _lose(self, begin: int, end: int) -> None:
        """Samples begin to end-1 of those that come next stand for lost ones."""
        blur = _BLUR if self._resampler else 0
        first, last = ((self._taken + at) * self._ratio for at in (begin, end))
        self._front.lose(int(first) - blur, int(last) + 1 + blur)

    def _received(self, found: Found | SlotFrame, ready: float = 0.0) -> Frame:
        near = OVERSAMPLING * self._settings.m / 2
        while self._known and self._known[0][0] < found.start - near:
            self._known.popleft()
        bits = coded = UNKNOWN
        if self._known and self._known[0][0] <= found.start + near:
            _, bits, coded = self._known.popleft()
        if isinstance(found, SlotFrame):
            return replace(found, bits=bits, ready=ready, coded=coded)
        drift = found.drift / (OVERSAMPLING * self._settings.bandwidth)
        return Frame(found.samples, bits, ready, coded, found.carrier_hz, drift)


def _resampler(rate: float, own: float, channels: int) -> soxr.ResampleStream:
    """Gives the same samples however its input is cut, aligned with its input."""
    try:
        import soxr
    except ImportError as error:
        raise FoundryError(
            f"{rate:g} samples a second, and the front end takes {own:g}: resampling needs soxr, "
            f"which is not installed: {install('stream')}"
        ) from error
    return soxr.ResampleStream(rate, own, channels, dtype="float32", quality="HQ")
