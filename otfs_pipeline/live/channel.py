"""The delay-Doppler channel of a frame, as its pilot shows it."""

from __future__ import annotations

import numpy as np

from otfs_pipeline.settings import Settings


def strip(samples: np.ndarray, settings: Settings) -> np.ndarray:
    """The delays of the pilot's window of taps in all Doppler periods: a copy, [N, W]."""
    first = settings.pilot[0] + settings.first_tap
    periods = samples.reshape(settings.n, settings.m)
    return periods[:, first : first + settings.window_delays].copy()


def gains(strip: np.ndarray, settings: Settings) -> np.ndarray:
    """|ĥ[a,b]|² of the whole window from a strip [N, W]: rows b = -D ... D, columns a, [2D+1, W].

    As `estimate.read_pilot`, of the window's delays alone and without the phase.
    """
    reach = settings.doppler_range
    grid = np.fft.fft(strip, axis=0, norm="ortho")
    window = np.roll(grid, reach - settings.pilot[1], axis=0)[: 2 * reach + 1]
    return np.asarray(np.abs(window) ** 2 / settings.pilot_amplitude**2)


def threshold(noise_variance: float, settings: Settings) -> float:
    """The gain from which on a tap is kept."""
    return settings.tap_sigmas**2 * noise_variance / settings.pilot_amplitude**2


def narrowed(gains: np.ndarray, columns: int) -> tuple[np.ndarray, int]:
    """At most `columns` columns, each the largest of so many neighbours."""
    each = -(-gains.shape[1] // columns)
    padded = np.pad(gains, ((0, 0), (0, -gains.shape[1] % each)))
    return padded.reshape(gains.shape[0], -1, each).max(axis=2), each
