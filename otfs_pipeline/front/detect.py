"""Where a preamble begins: normalized correlation with the known one."""

from __future__ import annotations

import numpy as np

from otfs_pipeline.front import OVERSAMPLING
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.preamble import preamble_template
from otfs_pipeline.waveform.pulse import scaled_dft, smooth

# Noise exceeds a share c of the energy at one place with probability e^(-cM): here 1e-6.
_FALSE_ALARM = 14.0
# Small grids are detected with fewer false alarms than they would need, and large ones in spite of
# many paths of equal power.
_LEAST, _MOST = 0.05, 0.4


class Detector:
    """Finds a link's preamble, with a carrier offset of up to a third of the Doppler period."""

    def __init__(self, settings: Settings) -> None:
        self.template = preamble_template(settings, OVERSAMPLING)
        self._spectra: dict[int, np.ndarray] = {}
        self.threshold = min(max(_FALSE_ALARM / settings.m, _LEAST), _MOST)

    @property
    def size(self) -> int:
        """Samples of the preamble."""
        return int(self.template.size)

    def find(self, samples: np.ndarray) -> int | None:
        """The index at which a preamble most likely begins; None where none is.

        `samples` holds the places to look at and a preamble more, [places + size - 1] complex64.
        """
        share = self._share(samples)
        best = int(np.argmax(share))
        return best if share[best] >= self.threshold else None

    def _share(self, samples: np.ndarray) -> np.ndarray:
        """At each place, the share of the energy that is the preamble's: 0 to 1."""
        count = smooth(samples.size)
        if count not in self._spectra:
            template = count * np.fft.fft(self.template, count).conj()
            self._spectra[count] = template.astype(np.complex64)
        spectrum = scaled_dft(samples, count) * self._spectra[count]
        found = np.abs(np.fft.ifft(spectrum)[: samples.size - self.size + 1]) ** 2
        power = samples.real.astype(np.float64) ** 2 + samples.imag.astype(np.float64) ** 2
        energy = np.cumsum(np.concatenate([[0.0], power]))
        here = energy[self.size :] - energy[: -self.size]
        # Rounding leaves more than nothing where samples are zero.
        floor = 1e-6 * max(float(here.max()), 1e-30)
        return np.where(here > floor, found / np.maximum(here, floor), 0.0)
