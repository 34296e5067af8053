"""DC and IQ imbalance, measured on the data of many frames and taken off.

An unbalanced mixer adds an image: y = αx + βx*. Data are as likely at any phase, so E[x²] = 0 and
E[y²] = 2αβ E|x|², which gives κ = β/α*; y - κy* has no image. The pilot has one phase in all
periods, so its strip is left out.
"""

from __future__ import annotations

import math

import numpy as np

from otfs_pipeline.front import OVERSAMPLING
from otfs_pipeline.link.frame import data_mask
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.pulse import centre_sample

# Frames over which the averages reach; offsets of a radio drift slowly.
MEMORY = 64
# An estimate below this many times its own standard deviation is not used: it would add noise.
SIGMAS = 3.0
# Samples of a frame that are measured, at most.
_MEASURED = 1 << 15


def burst_core(settings: Settings) -> tuple[int, int]:
    """The middle of a burst, where it has its full power: first sample from the centre, and count.

    At two samples a symbol.
    """
    return -OVERSAMPLING * (settings.q // 4), OVERSAMPLING * (settings.q // 2)


def data_samples(settings: Settings) -> np.ndarray:
    """Of these samples, those without the pilot that are measured, int64."""
    first, count = (part // OVERSAMPLING for part in burst_core(settings))
    delays = (centre_sample(settings) + first + np.arange(count)) % settings.m
    data = np.flatnonzero(np.repeat(data_mask(settings)[delays, 0], OVERSAMPLING))
    return data[:: -(-data.size // _MEASURED)]


class Balance:
    """Running estimates; `dc` and `rms` in the samples' unit, `image` is κ."""

    def __init__(self) -> None:
        self.dc = self.image = 0j
        self.rms = 1.0
        self._count = self._power = 0.0
        self._sum = self._square = 0j

    def measure(self, samples: np.ndarray) -> None:
        """Take a frame's samples without its pilot, [S] complex at two a symbol, into account."""
        keep = 1 - 1 / MEMORY
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
        significant = abs(mean) > SIGMAS * math.sqrt(power / independent)
        self.dc = mean if significant else 0j
        significant = abs(square) > SIGMAS * power * math.sqrt(2 / independent)
        rest = math.sqrt(max(power**2 - abs(square) ** 2, 0.0))
        self.image = square / (power + rest) if significant else 0j

    def correct(self, samples: np.ndarray) -> np.ndarray:
        """The samples without DC and image, complex64."""
        if not self.dc and not self.image:
            return samples
        centred = samples - np.complex64(self.dc)
        return centred - np.complex64(self.image) * centred.conj() if self.image else centred
