"""The matched filter in delay and Doppler: from a burst to the frame that the receiver takes.

The adjoint of the modulator (waveform/modulate.py): filter by w1, take a sample a symbol, multiply
by the window W2 over (1+β)T, and add what lies a frame apart.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from otfs_pipeline.front import OVERSAMPLING
from otfs_pipeline.front.align import STEPS
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.pulse import (
    burst_window,
    centre_sample,
    pulse_reach,
    pulse_spectrum,
    scaled_dft,
    smooth,
)
from otfs_pipeline.waveform.slot import slot

# Symbols of a block, or more for long pulses: rows of a DFT that fit a processor's cache.
_BLOCK = 1024


class MatchedFilter:
    """Filters of a link in frequency, one for each part of a sample, applied block by block."""

    def __init__(self, settings: Settings) -> None:
        place, self._reach = slot(settings), pulse_reach(settings)
        self._q, self._half = settings.q, place.half
        self._first_sample = centre_sample(settings)
        overlap, burst = 2 * self._reach, 2 * place.half + 1
        self._blocks = -(-burst // (max(_BLOCK, 4 * overlap) - overlap))
        self._block = smooth(-(-burst // self._blocks) + overlap)
        self._hop = self._block - overlap
        self._first = OVERSAMPLING * (place.centre - place.half - self._reach)
        self._bandwidth = settings.bandwidth
        size = OVERSAMPLING * self._block
        pulse = size / OVERSAMPLING * pulse_spectrum(settings, size, OVERSAMPLING)
        turn = 2j * np.pi * np.fft.fftfreq(size) / STEPS
        self._filters = [
            (pulse * np.exp(turn * part)).astype(np.complex64) for part in range(STEPS)
        ]
        self._window = burst_window(settings).astype(np.float32)

    @property
    def span(self) -> tuple[int, int]:
        """First sample that is needed and the one after the last, from the preamble on."""
        symbols = (self._blocks - 1) * self._hop + self._block
        return self._first, self._first + OVERSAMPLING * symbols + 1

    def frame(self, samples: np.ndarray, start: float, carrier: float) -> np.ndarray:
        """One frame [Q] complex64 of `samples`, whose preamble begins at `start`.

        `start` is a multiple of 1/STEPS. The filter is moved to the `carrier` offset, in Hz, to the
        nearest bin of a block's DFT; the offset is taken off after it, at a sample a symbol.
        """
        steps = round(start * STEPS)
        first = steps // STEPS + self._first
        size = OVERSAMPLING * self._block
        rows = sliding_window_view(samples[first:], size)[:: OVERSAMPLING * self._hop]
        bins = round(carrier / self._bandwidth * self._block)
        spectrum = scaled_dft(rows[: self._blocks], size)
        spectrum *= np.roll(self._filters[steps % STEPS], bins)
        # Every second sample in time is the sum of both halves in frequency.
        folded = spectrum[:, : self._block] + spectrum[:, self._block :]
        inner = np.fft.ifft(folded, axis=1)[:, self._reach : self._reach + self._hop]
        burst = inner.reshape(-1)[: 2 * self._half + 1] * self._window
        return self._fold(burst * rotation(-carrier / self._bandwidth, burst.size))

    def _fold(self, burst: np.ndarray) -> np.ndarray:
        """Sample n of the frame is the sum of the burst's at n, n-Q and n+Q, as far as it goes.

        Of a frame with a prefix it is sample n behind that.
        """
        q, half = self._q, self._half
        if self._first_sample:
            return burst[half - self._first_sample :][:q]
        out = np.zeros(q, np.complex64)
        for turn in range(-(half // q) - 1, half // q + 1):
            low, high = max(turn * q, -half), min((turn + 1) * q, half + 1)
            out[low - turn * q : high - turn * q] += burst[low + half : high + half]
        return out


def rotation(turns: float, count: int) -> np.ndarray:
    """e^{j2π·turns·n} for n = 0 to count-1, complex64, without as many exponentials."""
    block = 1 << (count.bit_length() // 2)
    fine = np.exp(2j * np.pi * turns * np.arange(block)).astype(np.complex64)
    coarse = np.exp(2j * np.pi * turns * block * np.arange(-(-count // block)))
    return np.outer(coarse.astype(np.complex64), fine).reshape(-1)[:count]
