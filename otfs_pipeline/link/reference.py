"""The receiver in numpy, float64: the oracle of the torch receiver and of the BER tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from otfs_pipeline.link import banded, equalize, frame, overlapped, qam
from otfs_pipeline.link.channel import Taps
from otfs_pipeline.link.estimate import Estimate, estimate, estimate_with_prefix, whiten
from otfs_pipeline.link.zak import inverse_zak, zak
from otfs_pipeline.settings import Settings


@dataclass(frozen=True)
class Received:
    """Unbiased symbols [D], LLRs [D, bits], hard decisions, μ and variance.

    `estimates` are the antennas' channel estimates.
    """

    symbols: np.ndarray
    llr: np.ndarray
    bits: np.ndarray
    estimates: tuple[Estimate, ...]
    mu: float
    variance: float

    @property
    def estimate(self) -> Estimate:
        """Of the first antenna."""
        return self.estimates[0]


def eigenvalue_bins(settings: Settings) -> tuple[int, int]:
    """Samples of |H(t,f)|² in time and frequency: twice what its spectrum needs, powers of two."""
    dopplers = 2 * settings.doppler_range + 1
    return 2 << (dopplers - 1).bit_length(), 2 << (settings.window_delays - 1).bit_length()


def receive(
    samples: np.ndarray,
    settings: Settings,
    channel: Estimate | Sequence[Estimate] | None = None,
    periods: bool = False,
    preconditioned: bool = False,
    blocks: overlapped.Blocks | None = None,
) -> Received:
    """One frame of time samples, [MN] or [antennas, MN]; `channel` replaces the pilots' estimates.

    Antennas are combined by their noise variances (MRC). With `periods` each Doppler period has its
    own iterations, as on the GPU, else the frame has. With `preconditioned` these are fewer, as of
    the native receiver on the CPU; with `blocks` too, as of the kernels that have a preconditioner.
    """
    antennas = np.atleast_2d(samples)
    n, data = frame.solved_periods(settings), frame.data_periods(settings)
    known = _known(antennas, settings, channel)
    sigma2, scale = whiten([one.noise_variance for one in known])
    taps = [_nonzero(one.taps, factor) for one, factor in zip(known, scale, strict=True)]
    h = banded.antenna_bands(taps, n * settings.m)
    mask = time_mask(settings)
    kp, bins = settings.pilot_bin[0], eigenvalue_bins(settings)
    right = scale[:, None] * _padded(antennas, settings) - pilot_response(settings, h)
    if preconditioned or blocks:
        x, mu = _preconditioned(right, settings, taps, sigma2, h, mask, blocks)
        return _received(x, settings, known, mu, 1 / mu - 1)
    rows = (n, kp) if periods else None
    solution = equalize.frequency_cg(right, h, sigma2, settings.cg_iterations, mask, rows)
    if periods:
        eigenvalue = _period_eigenvalues(settings, taps, bins[1])[data]
        coefficients = solution.alpha[:, data], solution.beta[:, data]
        solution = equalize.Solution(solution.x, *coefficients)
    else:
        eigenvalue = np.sum([equalize.eigenvalues(one, bins) for one in taps], axis=0)
        # Row i is of the time -i, and what is beyond the frame does not count.
        eigenvalue = eigenvalue[-np.arange(bins[0] * settings.n // n)]
    mu, variance = equalize.bias(solution, eigenvalue, sigma2)
    return _received(solution.x, settings, known, mu, variance)


def _known(
    antennas: np.ndarray, settings: Settings, channel: Estimate | Sequence[Estimate] | None
) -> tuple[Estimate, ...]:
    if isinstance(channel, Estimate):
        return (channel,)
    if channel is not None:
        return tuple(channel)
    if settings.waveform == "cp":
        return tuple(estimate_with_prefix(one, settings) for one in antennas)
    return tuple(estimate(zak(one, settings.m, settings.n), settings) for one in antennas)


def _padded(samples: np.ndarray, settings: Settings) -> np.ndarray:
    """Samples [..., MN] of a frame with those of the empty half behind, where there is one."""
    empty = settings.m * frame.solved_periods(settings) - settings.q
    return np.pad(samples, [(0, 0)] * (samples.ndim - 1) + [(0, empty)])


def _received(
    x: np.ndarray, settings: Settings, known: tuple[Estimate, ...], mu: float, variance: float
) -> Received:
    symbols = frame.extract(zak(x[: settings.q], settings.m, settings.n), settings) / mu
    llr = qam.max_log_llr(symbols, variance, settings.modulation)
    return Received(symbols, llr, (llr < 0).astype(np.uint8), known, mu, variance)


def circulant_order(settings: Settings) -> int:
    """Of the preconditioner: a power of two from all samples that a period's data reaches."""
    reached = settings.m - settings.guard_bins + settings.window_delays - 1
    return 1 << (max(reached, 128) - 1).bit_length()


def _preconditioned(
    right: np.ndarray,
    settings: Settings,
    taps: Sequence[Taps],
    sigma2: float,
    h: banded.Bands,
    mask: np.ndarray,
    blocks: overlapped.Blocks | None,
) -> tuple[np.ndarray, float]:
    """LMMSE's solution [Q], as far as few iterations find it, and its bias."""
    kp, half = settings.pilot_bin[0], settings.guard_bins // 2
    n, data = frame.solved_periods(settings), frame.data_periods(settings)
    columns = slice(half + 1, settings.m - half)
    if blocks:
        steps = settings.overlapped_iterations
        middles = blocks.middles(settings.m - settings.guard_bins + settings.window_delays - 1)
        eigenvalue = np.stack(
            [_period_eigenvalues(settings, taps, blocks.order, int(middle)) for middle in middles]
        )
        inverse = overlapped.inverse(eigenvalue, sigma2, blocks, columns)
    else:
        steps = settings.preconditioned_iterations
        eigenvalue = _period_eigenvalues(settings, taps, circulant_order(settings))
        inverse = equalize.circulant_inverse(eigenvalue + sigma2, columns)
    solution = equalize.frequency_cg(right, h, sigma2, steps, mask, (n, kp), inverse)
    return solution.x, float(np.mean((eigenvalue / (eigenvalue + sigma2))[..., data, :]))


def _period_eigenvalues(
    settings: Settings, taps: Sequence[Taps], frequencies: int, sample: int | None = None
) -> np.ndarray:
    """Σ |H(t,f)|² over the antennas, [N, frequencies], at a sample of each Doppler period, by
    default that in its middle."""
    n = frame.solved_periods(settings)
    offset = settings.m // 2 if sample is None else sample
    middle = settings.pilot_bin[0] + offset + settings.m * np.arange(n)
    each = [equalize.period_eigenvalues(one, n * settings.m, middle, frequencies) for one in taps]
    return np.asarray(np.sum(each, axis=0))


def pilot_response(settings: Settings, h: banded.Bands) -> np.ndarray:
    """The channel's response to the pilot: complex128 time samples [MN], or [antennas, MN]."""
    sent = _padded(inverse_zak(frame.pilot_grid(settings)), settings)
    return banded.apply_samples(sent, h)


def time_mask(settings: Settings) -> np.ndarray:
    """`frame.data_mask` on time samples [MN]: it depends on the delay alone, so it repeats."""
    mask = np.tile(frame.data_mask(settings)[:, 0], settings.n).astype(np.float64)
    return _padded(mask, settings)


def _nonzero(taps: Taps, scale: float) -> Taps:
    keep = taps.value != 0
    return Taps(scale * taps.value[keep], taps.delay[keep], taps.doppler[keep])
