"""A spread pilot's pulses compressed: correlated with the whole strip, as a point's would stand.

The strip holds nearly two periods of its chirp, so a path has a peak where it is and one of
((G-L)/G)² of that energy a period before and after, beside data of a symbol's power everywhere.
"""

from __future__ import annotations

import numpy as np

from otfs_pipeline.link.pilot import pilot_strip
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.pulse import smooth

# Energy that is nowhere expected, over that of the paths in their place, of a burst that is whole.
_STRAY = 0.3


def most_astray(settings: Settings) -> float:
    """Energy of a part of a burst over that of the paths in their place, where it is whole."""
    return 1 + 2 * (1 - settings.chirp_period / settings.guard_bins) ** 2 + _STRAY


def path_delays(settings: Settings, dense: int) -> int:
    """Delays of a window that holds all paths, in steps of 1/dense symbols."""
    return dense * settings.delay_taps + 1


class Compression:
    """Tables of a link; `count` delays in steps of 1/dense symbols, 0 in the middle."""

    def __init__(self, settings: Settings, dense: int, count: int) -> None:
        bins = settings.guard_bins
        self._width, self._count = path_delays(settings, dense), count
        self._size = smooth(count + dense * (bins - 1))
        strip = np.zeros(self._size, np.complex128)
        strip[: dense * bins : dense] = pilot_strip(settings)
        strip /= np.linalg.norm(strip)
        self._template = np.fft.fft(strip).conj().astype(np.complex64)
        self._most_astray = most_astray(settings)

    def pulses(self, filtered: np.ndarray) -> np.ndarray:
        """What a matched filter gives [periods, count + dense·(guard bins - 1)] to pulses."""
        spectrum = np.fft.fft(filtered, self._size, axis=1) * self._template
        return np.asarray(np.fft.ifft(spectrum, axis=1)[:, : self._count])

    def paths(self, energy: np.ndarray) -> np.ndarray:
        """Energy by delay without the peaks beside the paths': 0 but in their strongest window."""
        inside = np.convolve(energy, np.ones(self._width))[self._width - 1 :]
        first = int(np.argmax(inside))
        kept = np.zeros_like(energy)
        kept[first : first + self._width] = energy[first : first + self._width]
        return kept

    def is_astray(self, energy: np.ndarray, place: np.ndarray) -> bool:
        """Whether energy by delay is elsewhere than in its `place`, and beside it as expected.

        So it is where there is none.
        """
        main = energy[place].sum()
        return bool(energy.sum() >= self._most_astray * main)
