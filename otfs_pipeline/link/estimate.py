"""Channel and noise estimate from the embedded pilot of one frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from otfs_pipeline.link.channel import Taps
from otfs_pipeline.link.pilot import matched, seen_delays
from otfs_pipeline.link.prefix import TINY, least_energy, mixing, most_delays, reading
from otfs_pipeline.link.slepian import channel_shares, noise_row
from otfs_pipeline.link.smoothing import left_noise, smoothing
from otfs_pipeline.link.zak import quasi_periodic
from otfs_pipeline.settings import Settings


@dataclass(frozen=True)
class Estimate:
    """Taps of the whole window (zero where nothing stands out of the noise) and σ²."""

    taps: Taps
    noise_variance: float


def read_pilot(grid: np.ndarray, settings: Settings, pilot: tuple[int, int]) -> np.ndarray:
    """ĥ[a,b] from a received grid [M, N], continued quasi-periodically: [delay taps, N].

    Columns are b = -D ... N-D-1: the first 2D+1 belong to the channel, the rest hold only noise.
    """
    kp, lp = pilot
    k = seen_delays(settings) + kp - settings.pilot_bin[0]
    b = np.arange(settings.n)[:, None] - settings.doppler_range
    return cross_ambiguity(quasi_periodic(grid, k, lp + b), settings, kp).T


def cross_ambiguity(seen: np.ndarray, settings: Settings, kp: int) -> np.ndarray:
    """ĥ[a,b] as in pilot.py from what is seen of a pilot at delay kp: [..., B, L] to [..., B, W].

    Rows are the Dopplers lp-D, lp-D+1, ..., columns `seen_delays`. Of a point pilot
    ĥ[a,b] = y[kp+a, lp+b] e^{-j2πb kp/Q} / A.
    """
    b = np.arange(seen.shape[-2])[:, None] - settings.doppler_range
    k = seen_delays(settings) + kp - settings.pilot_bin[0]
    a = settings.first_tap + np.arange(settings.window_delays)
    found = seen * np.exp(-2j * np.pi * b * k / settings.q)
    if settings.pilot == "spread":
        chirp = np.fft.fft(matched(settings)).conj()
        found = np.fft.ifft(np.fft.fft(found) * chirp)[..., : settings.window_delays]
    found = found * np.exp(2j * np.pi * b * a / settings.q) / settings.pilot_amplitude
    return np.asarray(found)


def whiten(noise_variances: Sequence[float]) -> tuple[float, np.ndarray]:
    """The smallest noise variance over 0, and what scales each antenna's samples to it.

    An antenna without noise stays as it is: as a rule it is dead, and has no taps.
    """
    variance = np.asarray(noise_variances, dtype=np.float64)
    scale = np.ones_like(variance)
    least = variance[~(variance <= 0)].min(initial=np.inf) if variance.any() else 0.0
    louder = variance > least
    scale[louder] = np.sqrt(least / variance[louder])
    return float(least), scale


def estimate(
    grid: np.ndarray,
    settings: Settings,
    noise_variance: float | None = None,
    pilot: tuple[int, int] | None = None,
) -> Estimate:
    """Taps over `tap_sigmas`·σ, the `max_taps` strongest at most, from a received grid [M, N].

    σ² is the mean energy of the window's bins beyond the Doppler range unless it is given.
    """
    window = read_pilot(grid, settings, pilot or settings.pilot_bin)
    energy = np.abs(window) ** 2
    channel_columns = 2 * settings.doppler_range + 1
    amplitude_squared = settings.pilot_amplitude**2
    if noise_variance is None:
        noise_variance = float(energy[:, channel_columns:].mean() * amplitude_squared)
    energy = energy[:, :channel_columns]
    strongest = np.sort(energy, axis=None)[-settings.max_taps]
    floor = max(strongest, settings.tap_sigmas**2 * noise_variance / amplitude_squared)
    value = np.where(energy >= floor, window[:, :channel_columns], 0)
    return _estimate(value, settings, noise_variance)


def estimate_with_prefix(samples: np.ndarray, settings: Settings) -> Estimate:
    """Taps half a bin apart from a frame with a prefix, samples [MN] (see prefix.py)."""
    seen = samples.reshape(settings.n, settings.m)[:, seen_delays(settings)]
    window = (reading(settings) @ seen).T
    noise_variance = float(np.mean(np.abs(window[:, noise_row(settings) :]) ** 2))
    share = channel_shares(settings)
    window = smoothing(settings) @ window[:, : share.size]
    noise = noise_variance * left_noise(settings)
    energy = np.sum(np.abs(window) ** 2, axis=1)
    energy[energy < noise * least_energy(settings)] = 0
    energy[energy < np.sort(energy)[-most_delays(settings)]] = 0
    power = np.maximum(energy - share.size * noise, 0)[:, None] * share
    weight = power / np.maximum(power + noise[:, None], TINY)
    value = (weight * window) @ mixing(settings).T
    return _estimate(value, settings, noise_variance)


def _estimate(value: np.ndarray, settings: Settings, noise_variance: float) -> Estimate:
    """Of values [delay taps, 2D+1]."""
    a = settings.first_tap + np.arange(settings.window_delays)
    b = np.arange(value.shape[1]) - settings.doppler_range
    aa, bb = np.meshgrid(a, b, indexing="ij")
    return Estimate(Taps(value.ravel(), aa.ravel(), bb.ravel()), noise_variance)
