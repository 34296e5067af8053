"""The delays of a sinc, smoothed: what is read beside the pilot, as a channel of the link's spread.

A sinc falls as 1/t. Of its tails a window holds a part, and into the window reach tails of data, at
its ends with more power than noise has. But all delays a of a path are those of one function
sinc(a - Bτ), 0 <= τ <= delay spread: such functions fill hardly more dimensions than the spread has
bins. So delays are estimated together, where any τ is equally likely (LMMSE, as in time the
Slepian sequences are for Dopplers):

    ĥ = R (R + D)⁻¹ h, R[a,a'] = E[g(a-Bτ) g(a'-Bτ)], D = (σ² + Σ_d E[g²(a-d-Bτ)]) / energy

with h as the window shows it, and d the delays of data beside the strip.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from otfs_pipeline.link.channel import raised_cosine
from otfs_pipeline.link.slepian import channel_shares
from otfs_pipeline.settings import Settings

# Symbols by which a path may lie before 0 or beyond the spread: the timing's fraction is free.
_MARGIN = 1.0
# The noise that is reckoned with: at 30 dB. Three times more or less changes little.
_NOISE = 1e-3
# Delays of paths in a symbol, of which the means are taken.
_DENSE = 8


def is_smoothed(settings: Settings) -> bool:
    """Whether the link's receivers smooth: of frames with a prefix those of a sinc."""
    return settings.waveform == "cp" and settings.rolloffs[0] == 0


@lru_cache(maxsize=8)
def smoothing(settings: Settings) -> np.ndarray:
    """The matrix R (R + D)⁻¹ of the window's delays, float64 [W, W]; without smoothing the unit's.

    Noise of variance 1 at each delay has the variance `left_noise` after it.
    """
    s = settings
    if not is_smoothed(s):
        return np.eye(s.window_delays)
    paths = np.arange(-_MARGIN, s.delay_taps + _MARGIN, 1 / _DENSE)
    a = s.first_tap + np.arange(s.window_delays)
    response = raised_cosine(a[:, None] - paths, 0.0)
    covariance = response @ response.T / paths.size
    energy = s.pilot_energy / channel_shares(s).size
    noise = np.diag((_NOISE + _reaching(a, paths, s)) / energy)
    # Both are symmetric.
    return np.asarray(np.linalg.solve(covariance + noise, covariance).T)


def left_noise(settings: Settings) -> np.ndarray:
    """What smoothing leaves of the noise of each delay, over what there was, float64 [W]."""
    return np.asarray(np.sum(smoothing(settings) ** 2, axis=1))


def _reaching(a: np.ndarray, paths: np.ndarray, s: Settings) -> np.ndarray:
    """Power of data at the window's delays `a`, where a symbol has 1.

    Squares of a sinc at all integers sum to 1, and all but the strip is data: the next strip is
    too far away to count.
    """
    strip = s.guard_bins // 2
    taps = np.arange(a[0] - strip, a[-1] + strip + 1)
    mean = np.mean(raised_cosine(taps[:, None] - paths, 0.0) ** 2, axis=1)
    within = np.convolve(mean, np.ones(s.guard_bins), "valid")
    return np.asarray(np.maximum(1 - within, 0))
