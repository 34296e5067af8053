"""The receiver in numpy, float64: the oracle of the torch receiver and of the BER tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from otfs_pipeline.link import banded, equalize, frame, qam
from otfs_pipeline.link.channel import Taps
from otfs_pipeline.link.estimate import Estimate, estimate
from otfs_pipeline.link.zak import inverse_zak, zak
from otfs_pipeline.settings import Settings


@dataclass(frozen=True)
class Received:
    """Unbiased symbols [D], LLRs [D, bits], hard decisions, channel estimate, μ and variance."""

    symbols: np.ndarray
    llr: np.ndarray
    bits: np.ndarray
    estimate: Estimate
    mu: float
    variance: float


def eigenvalue_bins(settings: Settings) -> tuple[int, int]:
    """Samples of |H(t,f)|² in time and frequency: twice what its spectrum needs, powers of two."""
    dopplers = 2 * settings.doppler_range + 1
    return 2 << (dopplers - 1).bit_length(), 2 << (settings.window_delays - 1).bit_length()


def receive(
    samples: np.ndarray,
    settings: Settings,
    channel: Estimate | None = None,
    periods: bool = False,
    preconditioned: bool = False,
) -> Received:
    """One frame of time samples [MN]; `channel` replaces the estimate from the pilot.

    With `periods` each Doppler period has its own iterations, as on the GPU, else the frame has.
    With `preconditioned` these are fewer, as of the native receiver on the CPU.
    """
    grid = zak(samples, settings.m, settings.n)
    known = channel or estimate(grid, settings)
    sigma2 = known.noise_variance
    h = banded.bands(_nonzero(known.taps), settings.q)
    mask = time_mask(settings)
    kp, bins = settings.pilot[0], eigenvalue_bins(settings)
    right = samples - pilot_response(settings, h)
    if preconditioned:
        x, mu = _preconditioned(right, settings, known, h, mask)
        return _received(x, settings, known, mu, 1 / mu - 1)
    blocks = (settings.n, kp) if periods else None
    solution = equalize.frequency_cg(right, h, sigma2, settings.iterations, mask, blocks)
    if periods:
        middle = kp + settings.m // 2 + settings.m * np.arange(settings.n)
        eigenvalue = equalize.period_eigenvalues(known.taps, settings.q, middle, bins[1])
    else:
        eigenvalue = equalize.eigenvalues(known.taps, bins)
    mu, variance = equalize.bias(solution, eigenvalue, sigma2)
    return _received(solution.x, settings, known, mu, variance)


def _received(
    x: np.ndarray, settings: Settings, known: Estimate, mu: float, variance: float
) -> Received:
    symbols = frame.extract(zak(x, settings.m, settings.n), settings) / mu
    llr = qam.max_log_llr(symbols, variance, settings.modulation)
    return Received(symbols, llr, (llr < 0).astype(np.uint8), known, mu, variance)


def circulant_order(settings: Settings) -> int:
    """Of the preconditioner: a power of two from all samples that a period's data reaches."""
    reached = settings.m - settings.guard_bins + settings.window_delays - 1
    return 1 << (max(reached, 128) - 1).bit_length()


def _preconditioned(
    right: np.ndarray, settings: Settings, known: Estimate, h: banded.Bands, mask: np.ndarray
) -> tuple[np.ndarray, float]:
    """LMMSE's solution [Q], as far as few iterations find it, and its bias."""
    kp, half = settings.pilot[0], settings.guard_bins // 2
    middle = kp + settings.m // 2 + settings.m * np.arange(settings.n)
    eigenvalue = equalize.period_eigenvalues(
        known.taps, settings.q, middle, circulant_order(settings)
    )
    damped = eigenvalue + known.noise_variance
    solution = equalize.frequency_cg(
        right,
        h,
        known.noise_variance,
        settings.preconditioned_iterations,
        mask,
        (settings.n, kp),
        equalize.circulant_inverse(damped, slice(half + 1, settings.m - half)),
    )
    return solution.x, float(np.mean(eigenvalue / damped))


def pilot_response(settings: Settings, h: banded.Bands) -> np.ndarray:
    """The channel's response to the pilot: complex128 time samples [MN]."""
    return banded.apply_samples(inverse_zak(frame.pilot_grid(settings)), h)


def time_mask(settings: Settings) -> np.ndarray:
    """`frame.data_mask` on time samples [MN]: it depends on the delay alone, so it repeats."""
    return np.tile(frame.data_mask(settings)[:, 0], settings.n).astype(np.float64)


def _nonzero(taps: Taps) -> Taps:
    keep = taps.value != 0
    return Taps(taps.value[keep], taps.delay[keep], taps.doppler[keep])
