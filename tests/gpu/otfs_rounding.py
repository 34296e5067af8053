"""How far float32 may take the receiver from float64 on one frame.

The conjugate gradients of a frame amplify rounding by its conditioning, and from frame to frame by
factors of a thousand. So the frame itself is asked, by Monte Carlo arithmetic: the kernels'
recursion runs in float32 on samples that are off by one unit in the last place, several times, and
the kernels may be off by a multiple of the worst run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from otfs_pipeline.link import banded, equalize, frame, qam, reference
from otfs_pipeline.link.channel import Taps
from otfs_pipeline.link.zak import zak
from otfs_pipeline.receiver.kernels.geometry import Geometry

RUNS = 8
MARGIN = 4
"""Room for one run beside eight others: its share of their worst was up to 1.57 in x and 3 in μ,
where no kernel took part. In 13 emulated frames the kernels stayed within the bounds."""
UNIT = 2.0**-24
"""Half a unit in the last place of float32."""
SUMS = 1e-5
"""Relative error of the sums of a frame that μ is made of, in float32."""


@dataclass(frozen=True)
class Bounds:
    """Of the equalized symbols before μ is divided out (absolute), of μ (relative), and the largest
    LLR that these errors can take across zero."""

    equalized: float
    mu: float
    llr: float


def bounds(samples: np.ndarray, geometry: Geometry, exact: reference.Received) -> Bounds:
    """For kernels of `geometry` that compute each sample with a coefficient of its own.

    `samples` [MN] complex64; `exact` is what `reference.receive` made of them, by periods.
    """
    if geometry.each != 1:
        raise ValueError("bounds: coefficients that are held over samples are no rounding error")
    settings = geometry.settings
    rng = np.random.default_rng(0)
    runs = [_run(_off(samples, rng), geometry, exact, rng) for _ in range(RUNS)]
    equalized = MARGIN * max(float(np.abs(x - exact.symbols * exact.mu).max()) for x, _ in runs)
    # A residual counts as 0 beyond the spectrum (`equalize.bias`). One sample of the spectrum that
    # a rounding error takes across that limit adds up to its weight to μ.
    crossing = 1 / (settings.n * reference.eigenvalue_bins(settings)[1])
    mu = MARGIN * max(abs(mu / exact.mu - 1) for _, mu in runs) + crossing + SUMS
    off = equalized / exact.mu + mu * float(np.abs(exact.symbols).max())
    # An LLR is the difference of two squared distances over the variance.
    slope = 4 * float(qam.amplitudes(settings.modulation).max()) / exact.variance
    return Bounds(equalized, mu, slope * off)


def _off(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return samples * (1 + UNIT * rng.choice([-1, 1], samples.size))


def _run(
    samples: np.ndarray,
    geometry: Geometry,
    exact: reference.Received,
    rng: np.random.Generator,
) -> tuple[np.ndarray, float]:
    """x̂ [D] and μ by the recursion of equalize.cu in float32, with its coefficients' errors."""
    s = geometry.settings
    n = frame.solved_periods(s)
    taps, sigma2 = exact.estimate.taps, np.float32(exact.estimate.noise_variance)

    def interpolated(beyond: int) -> banded.Bands:
        error = coefficient_error(geometry, taps, beyond) * rng.choice([-1, 1], taps.value.size)
        return _single(banded.bands(replace(taps, value=taps.value * (1 + error)), n * s.m))

    forward, adjoint = interpolated(0), interpolated(geometry.group - 2)
    mask = reference.time_mask(s).astype(np.float32)

    def periods(p: np.ndarray) -> np.ndarray:
        return np.roll(p, -s.pilot_bin[0]).reshape(n, s.m)

    def flat(p: np.ndarray) -> np.ndarray:
        return np.roll(p.reshape(-1), s.pilot_bin[0])

    def through(p: np.ndarray) -> np.ndarray:
        return periods(banded.apply_samples(flat(p), forward))

    def back(y: np.ndarray) -> np.ndarray:
        spectrum = banded.apply_adjoint(np.fft.fft(flat(y)), adjoint)
        return periods(mask * np.fft.ifft(spectrum))

    def energy(p: np.ndarray) -> np.ndarray:
        return np.einsum("nm,nm->n", p.conj(), p).real[:, None]

    # Behind a frame with a prefix the second half is empty.
    padded = np.pad(samples, (0, n * s.m - s.q))
    response = reference.pilot_response(s, forward)
    residual = back(periods((padded - response).astype(np.complex64)))
    x = direction = y = np.zeros_like(residual)
    before, alphas, betas = None, [], []
    for _ in range(s.cg_iterations):
        now = energy(residual)
        beta = np.zeros_like(now) if before is None else _ratio(now, before)
        direction = residual + beta * direction
        y = through(residual) + beta * y
        alpha = _ratio(now, energy(y) + sigma2 * energy(direction))
        x = x + alpha * direction
        residual = residual - alpha * (back(y) + sigma2 * direction)
        before = now
        alphas.append(alpha)
        betas.append(beta)
    assert x.dtype == np.complex64, "numpy's transforms kept no single precision"
    data = frame.data_periods(s)
    steps = equalize.Solution(
        x, np.array(alphas)[:, data], np.array([*betas[1:], betas[0]])[:, data]
    )
    middle = s.pilot_bin[0] + s.m // 2 + s.m * np.arange(n)
    bins = reference.eigenvalue_bins(s)[1]
    eigenvalue = equalize.period_eigenvalues(taps, n * s.m, middle, bins)[data]
    mu, _ = equalize.bias(steps, eigenvalue, float(sigma2))
    return frame.extract(zak(flat(x)[: s.q], s.m, s.n), s), mu


def coefficient_error(geometry: Geometry, taps: Taps, beyond: int) -> np.ndarray:
    """Relative error of a tap's part of a coefficient, [taps].

    A coefficient is linear between nodes, and is taken up to `beyond` samples behind the next one:
    in Hᴴ, that of a group's last delay. A tap at Doppler b turns by 2πb/Q a sample, and pulses
    without a roll-off have taps far beyond the fastest path.
    """
    step = geometry.node_step
    if step == 1:
        return np.zeros(taps.value.size)
    settings = geometry.settings
    turn = 2 * np.pi * taps.doppler / (frame.solved_periods(settings) * settings.m)
    return turn**2 * max(step**2 / 8, (step + beyond) * beyond / 2)


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """0 in periods that hold nothing."""
    return np.asarray(over / np.where(under == 0, 1, under))


def _single(channel: banded.Bands) -> banded.Bands:
    return banded.Bands(channel.doppler, channel.value.astype(np.complex64))
