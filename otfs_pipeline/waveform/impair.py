"""What a radio does to a waveform: noise, offsets, DC, an unbalanced mixer, lost samples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Impairments:
    """Of a stream of samples at the oversampled rate; the defaults do nothing.

    The mean power of a burst is 1 over the oversampling, so that noise of variance 1/SNR in each
    sample has that variance after the matched filter too.
    """

    snr_db: float = math.inf
    delay: float = 0.0
    """Samples by which the stream comes later; where negative, its beginning is missing."""
    carrier_hz: float = 0.0
    dc: float = 0.0
    """Constant over the rms of a burst; it lies in both branches."""
    iq_db: float = 0.0
    iq_degrees: float = 0.0
    """The quadrature branch is so much stronger, and turned by this angle."""
    gap_at: int = 0
    gap: int = 0
    """Samples that are missing, and the first of them as they are sent."""

    @property
    def fraction(self) -> float:
        """The part of the delay within a sample, which the modulator makes."""
        return self.delay - math.floor(self.delay)

    def moved(self, sample: int) -> int:
        """Where a sample of the stream before is in the stream after; a missing one, its gap."""
        sample += math.floor(self.delay)
        return sample - min(max(sample - self.gap_at, 0), self.gap)


def impaired(
    pieces: Iterable[np.ndarray],
    given: Impairments,
    rate: float,
    oversampling: int,
    seed: int,
    antennas: tuple[int, ...] = (),
) -> Iterator[np.ndarray]:
    """Pieces of a stream after `given`, but for `fraction`; complex64, at `rate` samples a second.

    Samples are [S, *antennas]; each antenna has noise of its own.

    How the stream is cut into pieces changes nothing.
    """
    rng = np.random.default_rng([seed, 2])
    whole = math.floor(given.delay)
    late = [np.zeros((whole, *antennas), np.complex128)] if whole > 0 else []
    skip, position = max(-whole, 0), 0
    unbalanced = 10 ** (given.iq_db / 20) * np.exp(1j * math.radians(given.iq_degrees))
    dc = given.dc * (1 + 1j) / math.sqrt(2 * oversampling)
    for piece in itertools.chain(late, pieces):
        samples = piece[min(skip, len(piece)) :]
        skip -= len(piece) - len(samples)
        sent = np.arange(position, position + len(samples))
        turn = np.exp(2j * np.pi * (given.carrier_hz / rate * sent % 1))
        # All antennas have one oscillator.
        samples = (samples.T * turn).T
        if given.snr_db < math.inf:
            noise = rng.standard_normal((*samples.shape, 2)).view(np.complex128)[..., 0]
            samples = samples + noise * math.sqrt(10 ** (-given.snr_db / 10) / 2)
        samples = samples.real + 1j * unbalanced * samples.imag + dc
        position += len(samples)
        missing = (sent >= given.gap_at) & (sent < given.gap_at + given.gap)
        yield samples[~missing].astype(np.complex64)


NONE = Impairments()
