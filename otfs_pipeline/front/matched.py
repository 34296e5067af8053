"""The matched filter in delay and Doppler: from a burst to the frame that the receiver takes.

The adjoint of the modulator (waveform/modulate.py): filter by w1, take a sample a symbol, multiply
by the window W2 over (1+β)T, and add what lies a frame apart.
"""

from __future__ import annotations

import numpy as np

from otfs_pipeline.front import OVERSAMPLING
from otfs_pipeline.front.align import STEPS
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.pulse import burst_window, pulse_reach, pulse_spectrum, smooth
from otfs_pipeline.waveform.slot import slot


class MatchedFilter:
    """Filters of a link in frequency, one for each part of a sample."""

    def __init__(self, settings: Settings) -> None:
        place, reach = slot(settings), pulse_reach(settings)
        self._q, self._half = settings.q, place.half
        self._symbols = smooth(2 * place.half + 1 + 2 * reach)
        self._first = OVERSAMPLING * (place.centre - place.half - reach)
        self._reach = reach
        size = OVERSAMPLING * self._symbols
        self._bandwidth = settings.bandwidth
        self._bin = settings.bandwidth * OVERSAMPLING / size
        pulse = pulse_spectrum(settings, size, OVERSAMPLING) / OVERSAMPLING
        turn = 2j * np.pi * np.fft.fftfreq(size) / STEPS
        self._filters = [
            (pulse * np.exp(turn * part)).astype(np.complex64) for part in range(STEPS)
        ]
        self._window = burst_window(settings).astype(np.float32)

    @property
    def span(self) -> tuple[int, int]:
        """First sample that is needed and the one after the last, from the preamble on."""
        return self._first, self._first + OVERSAMPLING * self._symbols + 1

    def frame(self, samples: np.ndarray, start: float, carrier: float) -> np.ndarray:
        """One frame [Q] complex64 of `samples`, whose preamble begins at `start`.

        `start` is a multiple of 1/STEPS. A carrier offset in Hz is taken off before the filter to
        the nearest bin of the DFT, and the rest of it, far below the bandwidth, after it.
        """
        steps = round(start * STEPS)
        first = steps // STEPS + self._first
        piece = samples[first : first + OVERSAMPLING * self._symbols]
        bins = round(carrier / self._bin)
        spectrum = np.roll(np.fft.fft(piece), -bins) * self._filters[steps % STEPS]
        # Every second sample in time is the sum of both halves in frequency.
        folded = spectrum.reshape(OVERSAMPLING, -1).sum(axis=0)
        inner = np.fft.ifft(folded)[self._reach : self._reach + 2 * self._half + 1]
        rest = (carrier - bins * self._bin) / self._bandwidth
        return self._fold(inner * self._window * rotation(-rest, inner.size))

    def _fold(self, burst: np.ndarray) -> np.ndarray:
        """Sample n of the frame is the sum of the burst's at n, n-Q and n+Q, as far as it goes."""
        q, half = self._q, self._half
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
