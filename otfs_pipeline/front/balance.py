"""DC and IQ imbalance, measured on the data of many frames and taken off.

An unbalanced mixer adds an image: y = αx + βx*. Data are as likely at any phase, so E[x²] = 0 and
E[y²] = 2αβ E|x|², which gives κ = β/α*; y - κy* has no image. The pilot has one phase in all
periods, so its strip is left out.
"""

from __future__ import annotations

import math

import numpy as np

# Frames over which the averages reach; offsets of a radio drift slowly.
_MEMORY = 64
# An estimate below this many times its own standard deviation is not used: it would add noise.
_SIGMAS = 3.0


class Balance:
    """Running estimates; `dc` and `rms` in the samples' unit, `image` is κ."""

    def __init__(self) -> None:
        self.dc = self.image = 0j
        self.rms = 1.0
        self._count = self._power = 0.0
        self._sum = self._square = 0j

    def measure(self, samples: np.ndarray) -> None:
        """Take a frame's samples without its pilot, [S] complex at two a symbol, into account."""
        keep = 1 - 1 / _MEMORY
        samples = samples.astype(np.complex128)
        self._count = self._count * keep + samples.size
        self._sum = self._sum * keep + samples.sum()
        self._square = self._square * keep + samples @ samples
        self._power = self._power * keep + float(np.vdot(samples, samples).real)
        mean = self._sum / self._count
        power = self._power / self._count - abs(mean) ** 2
        square = self._square / self._count - mean**2
        # Neighbours at two samples a symbol are not independent.
        independent = self._count / 2
        if power <= 0:
            return
        self.rms = math.sqrt(power)
        significant = abs(mean) > _SIGMAS * math.sqrt(power / independent)
        self.dc = mean if significant else 0j
        significant = abs(square) > _SIGMAS * power * math.sqrt(2 / independent)
        rest = math.sqrt(max(power**2 - abs(square) ** 2, 0.0))
        self.image = square / (power + rest) if significant else 0j

    def correct(self, samples: np.ndarray) -> np.ndarray:
        """The samples without DC and image, complex64."""
        if not self.dc and not self.image:
            return samples
        centred = samples - np.complex64(self.dc)
        return centred - np.complex64(self.image) * centred.conj() if self.image else centred
