"""The delay-Doppler channel of a frame, as its pilot shows it."""

from __future__ import annotations

import numpy as np

from otfs_pipeline.settings import Settings


def strip(samples: np.ndarray, settings: Settings) -> np.ndarray:
    """The delays of the pilot's window of taps in all Doppler periods: a copy.

    Of samples [..., MN]: [..., N, W].
    """
    first = settings.pilot[0] + settings.first_tap
    periods = samples.reshape(*samples.shape[:-1], settings.n, settings.m)
    return periods[..., first : first + settings.window_delays].copy()


def gains(strip: np.ndarray, settings: Settings) -> np.ndarray:
    """|ĥ[a,b]|² of the whole window from a strip [..., N, W].

    Rows b = -D ... D, columns a: [..., 2D+1, W]. As `estimate.read_pilot`, of the window's delays
    alone and without the phase.
    """
    reach = settings.doppler_range
    grid = np.fft.fft(strip, axis=-2, norm="ortho")
    window = np.roll(grid, reach - settings.pilot[1], axis=-2)[..., : 2 * reach + 1, :]
    return np.asarray(np.abs(window) ** 2 / settings.pilot_amplitude**2)


def threshold(noise_variance: np.ndarray, settings: Settings) -> np.ndarray:
    """The gain from which on a tap is kept, by the noise variances of antennas."""
    return settings.tap_sigmas**2 * noise_variance / settings.pilot_amplitude**2


def narrowed(gains: np.ndarray, columns: int) -> tuple[np.ndarray, int]:
    """At most `columns` columns of [..., W], each the largest of so many neighbours."""
    *rows, width = gains.shape
    each = -(-width // columns)
    padded = np.pad(gains, [(0, 0)] * len(rows) + [(0, -width % each)])
    return padded.reshape(*rows, -1, each).max(axis=-1), each
