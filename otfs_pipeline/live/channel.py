"""The delay-Doppler channel of a frame, as its pilot shows it."""

from __future__ import annotations

import numpy as np

from otfs_pipeline.link.estimate import cross_ambiguity
from otfs_pipeline.link.pilot import seen_delays
from otfs_pipeline.settings import Settings


def strip(samples: np.ndarray, settings: Settings) -> np.ndarray:
    """The delays in which the taps are seen, of all Doppler periods: a copy.

    Of samples [..., MN]: [..., N, W], of a spread pilot [..., N, L].
    """
    periods = samples.reshape(*samples.shape[:-1], settings.n, settings.m)
    return periods[..., seen_delays(settings)]


def gains(strip: np.ndarray, settings: Settings) -> np.ndarray:
    """|ĥ[a,b]|² of the whole window from what `strip` gives.

    Rows b = -D ... D, columns a: [..., 2D+1, W]. With a prefix, where Dopplers leak into all bins,
    rows are half a bin apart.
    """
    s = settings
    each = round(1 / s.doppler_step)
    grid = np.fft.fft(strip, each * s.n, axis=-2) / np.sqrt(s.n)
    around = np.roll(grid, s.doppler_range - each * s.pilot_bin[1], axis=-2)
    seen = around[..., : 2 * s.doppler_range + 1, :]
    if s.pilot == "point":
        return np.asarray(np.abs(seen) ** 2 / s.pilot_amplitude**2)
    return np.asarray(np.abs(cross_ambiguity(seen, s, s.pilot_bin[0])) ** 2)


def threshold(noise_variance: np.ndarray, settings: Settings) -> np.ndarray:
    """The gain from which on a tap is kept, by the noise variances of antennas."""
    return settings.tap_sigmas**2 * noise_variance / settings.pilot_amplitude**2


def narrowed(gains: np.ndarray, columns: int) -> tuple[np.ndarray, int]:
    """At most `columns` columns of [..., W], each the largest of so many neighbours."""
    *rows, width = gains.shape
    each = -(-width // columns)
    padded = np.pad(gains, [(0, 0)] * len(rows) + [(0, -width % each)])
    return padded.reshape(*rows, -1, each).max(axis=-1), each
