"""Slepian sequences: what a few Dopplers leave of N observations, orthogonal to all else.

Of all sequences of N samples those of a band |ν| <= W fill hardly more than 2NW dimensions: the
eigenvectors of sin(2πW(m-n))/(π(m-n)) with eigenvalues that are not small (Slepian 1978; as a basis
of channels that vary in time Zemen and Mecklenbräuker 2005). No Doppler need lie on a grid, and
what leaks into the other N-2NW is as small as one likes.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from otfs_pipeline.settings import Settings

# Eigenvalues from which on a sequence is of the channel, and below which it holds noise alone: a
# path at the edge of the band has 1e-4 of its energy outside the first, 3e-6 in the others.
_OF_CHANNEL, _OF_NOISE = 1e-4, 1e-6


def slepian(settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues [N], falling, and sequences in columns [N, N]; a sample is a Doppler period."""
    return _slepian(settings.n, band(settings))


def band(settings: Settings) -> float:
    """W: the largest Doppler that is estimated, in cycles a Doppler period."""
    return settings.reached_bins / settings.n


def channel_shares(settings: Settings) -> np.ndarray:
    """Of the sequences that the channel consists of, the first ones, the shares of its energy.

    [rows], where Dopplers anywhere in the band are equally likely.
    """
    values = slepian(settings)[0]
    return np.asarray(values[values >= _OF_CHANNEL] / values.sum())


def noise_row(settings: Settings) -> int:
    """The first sequence that holds noise alone."""
    return int(np.count_nonzero(slepian(settings)[0] >= _OF_NOISE))


def continued(settings: Settings, at: np.ndarray) -> np.ndarray:
    """The channel's sequences at any times `at` in samples, [times, rows], in the band."""
    values, vectors = slepian(settings)
    rows = channel_shares(settings).size
    kernel = _kernel(at, np.arange(settings.n), band(settings))
    return np.asarray(kernel @ vectors[:, :rows] / values[:rows])


@lru_cache(maxsize=64)
def _slepian(count: int, bandwidth: float) -> tuple[np.ndarray, np.ndarray]:
    n = np.arange(count)
    values, vectors = np.linalg.eigh(_kernel(n, n, bandwidth))
    return values[::-1].copy(), vectors[:, ::-1].copy()


def _kernel(at: np.ndarray, n: np.ndarray, bandwidth: float) -> np.ndarray:
    return np.asarray(2 * bandwidth * np.sinc(2 * bandwidth * (at[:, None] - n)))
