"""LMMSE equalization: conjugate gradients with a fixed iteration count, and a dense oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from otfs_pipeline.link import banded
from otfs_pipeline.link.channel import Taps, apply, apply_adjoint
from otfs_pipeline.link.zak import inverse_zak, zak


@dataclass(frozen=True)
class Solution:
    """Estimate, and the coefficients α_i, β_i of each iteration: [K], or [K, N, 1] by period."""

    x: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray


def _inner(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(np.vdot(a, b).real)


def _rows_inner(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum("nm,nm->n", a.conj(), b).real[:, None])


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(a / np.where(b == 0, 1.0, b))


def solve(
    normal: Callable[[np.ndarray], np.ndarray],
    right: np.ndarray,
    iterations: int,
    inner: Callable[[np.ndarray, np.ndarray], np.ndarray] = _inner,
    inverse: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> Solution:
    """`iterations` iterations of conjugate gradients on normal(x) = right, from zero.

    Of several systems those whose right side is 0 stay there.
    `inner` is the inner product: of the whole, or of each of several systems solved together.
    `inverse` multiplies with the preconditioner's inverse, hermitian and positive.
    """
    x = np.zeros_like(right)
    residual = right
    direction = inverse(residual)
    energy = inner(residual, direction)
    alphas, betas = [], []
    for _ in range(iterations):
        q = normal(direction)
        alpha = _ratio(energy, inner(direction, q))
        x = x + alpha * direction
        residual = residual - alpha * q
        steepest = inverse(residual)
        next_energy = inner(residual, steepest)
        beta = _ratio(next_energy, energy)
        direction = steepest + beta * direction
        energy = next_energy
        alphas.append(alpha)
        betas.append(beta)
    return Solution(x, np.array(alphas), np.array(betas))


def delay_doppler_cg(
    grid: np.ndarray,
    taps: Taps,
    noise_variance: float,
    iterations: int,
    mask: np.ndarray | float = 1.0,
) -> Solution:
    """Solve (P HᴴH P + σ²I) x = P Hᴴ y on [M, N]; `mask` P is 0 on bins that carry no data."""

    def normal(p: np.ndarray) -> np.ndarray:
        return mask * apply_adjoint(apply(p, taps), taps) + noise_variance * p

    return solve(normal, mask * apply_adjoint(grid, taps), iterations)


def frequency_cg(
    samples: np.ndarray,
    channel: banded.Bands,
    noise_variance: float,
    iterations: int,
    mask: np.ndarray | float = 1.0,
    periods: tuple[int, int] | None = None,
    inverse: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> Solution:
    """The same system on time samples [Q], with H banded in frequency.

    Of several antennas, samples [antennas, Q], HᴴH and Hᴴy are the sums over them: maximum-ratio
    combining where noise of the same variance is at each.

    A guard strip spans all Dopplers, so its projection is diagonal in time too: `mask` [Q]. Zak
    and DFT are unitary, so the iterates are those of `delay_doppler_cg`. With `periods` = (N, the
    first sample of one) every Doppler period has its own iterations: a strip longer than the
    channel makes the system block diagonal, and N small Krylov spaces hold more than their sum.
    `inverse` is then a preconditioner's, on the periods' rows [N, M].
    """

    def normal(p: np.ndarray) -> np.ndarray:
        through = banded.apply(np.fft.fft(p), channel)
        return mask * np.fft.ifft(banded.apply_adjoint(through, channel)) + noise_variance * p

    right = mask * np.fft.ifft(banded.apply_adjoint(np.fft.fft(samples), channel))
    if periods is None:
        return solve(normal, right, iterations)
    count, first = periods

    def rows(p: np.ndarray) -> np.ndarray:
        return np.roll(p, -first).reshape(count, -1)

    def flat(p: np.ndarray) -> np.ndarray:
        return np.roll(p.reshape(-1), first)

    found = solve(lambda p: rows(normal(flat(p))), rows(right), iterations, _rows_inner, inverse)
    return Solution(flat(found.x), found.alpha, found.beta)


def eigenvalues(taps: Taps, bins: tuple[int, int]) -> np.ndarray:
    """|H(t,f)|² at bins = (times, frequencies): eigenvalues of HᴴH, as far as H is underspread.

    The delay and Doppler spread multiply to about 1e-3, so the spectrum of the Gram matrix is
    that of the time-frequency response's squared magnitude.
    """
    times, frequencies = bins
    plane = np.zeros((times, frequencies), dtype=np.complex128)
    np.add.at(plane, (taps.doppler % times, taps.delay % frequencies), taps.value)
    return np.abs(np.fft.fft2(plane)) ** 2


def period_eigenvalues(taps: Taps, q: int, times: np.ndarray, frequencies: int) -> np.ndarray:
    """|H(t,f)|² [times, frequencies] at given samples t of a frame of q."""
    plane = np.zeros((times.size, frequencies), dtype=np.complex128)
    turn = taps.doppler * (times[:, None] - taps.delay) % q
    value = taps.value * np.exp(2j * np.pi * turn / q)
    np.add.at(plane.T, taps.delay % frequencies, value.T)
    return np.abs(np.fft.fft(plane, axis=1)) ** 2


def circulant_inverse(damped: np.ndarray, columns: slice) -> Callable[[np.ndarray], np.ndarray]:
    """Products of rows [N, M] with the inverses of N circulant matrices, within `columns`.

    `damped` [N, order] has their eigenvalues. Rows are 0 outside the columns, and stay so.
    """

    def inverse(rows: np.ndarray) -> np.ndarray:
        part = rows[:, columns]
        out = np.zeros_like(rows)
        spectrum = np.fft.fft(part, damped.shape[1], axis=1) / damped
        out[:, columns] = np.fft.ifft(spectrum, axis=1)[:, : part.shape[1]]
        return out

    return inverse


def bias(solution: Solution, eigenvalue: np.ndarray, noise_variance: float) -> tuple[float, float]:
    """μ and the noise variance v of x̂/μ = s + e after K steps, for unit-energy symbols.

    K steps compute x̂ = c(G) Hᴴ y with c(λ) = (1 - r(λ)) / (λ+σ²) and the residual polynomial r of
    the recorded α, β. So μ = E[λc], E|x̂|² = E[(λc)² + σ²λc²] over the eigenvalues λ of G = HᴴH,
    and v = E|x̂|²/μ² - 1; for r → 0 these are LMMSE's μ = tr[(G+σ²I)⁻¹G]/Q and v = 1/μ - 1.

    On the spectrum of G, |r| <= 1 holds; beyond it (`eigenvalue` is an approximation) r grows
    without bound, though its neighbours inside, the largest, converge first: r counts as 0 there.
    """
    residual = direction = np.ones_like(eigenvalue)
    with np.errstate(over="ignore", invalid="ignore"):
        for alpha, beta in zip(solution.alpha, solution.beta, strict=True):
            residual = residual - alpha * (eigenvalue + noise_variance) * direction
            direction = residual + beta * direction
        inside = np.abs(residual) <= 1
    c = (1 - np.where(inside, residual, 0.0)) / (eigenvalue + noise_variance)
    mu = np.mean(eigenvalue * c)
    power = np.mean((eigenvalue + noise_variance) * eigenvalue * c**2)
    return float(mu), float(power / mu**2 - 1)


def dense_time(taps: Taps, q: int) -> np.ndarray:
    """H on time samples as a matrix [Q, Q] complex128, for small frames only."""
    matrix = np.zeros((q, q), dtype=np.complex128)
    row = np.arange(q)
    for a in np.unique(taps.delay):
        here = taps.delay == a
        phase = np.exp(2j * np.pi * np.outer(row - a, taps.doppler[here]) / q)
        matrix[row, (row - a) % q] += phase @ taps.value[here]
    return matrix


def _gram(h: np.ndarray, delays: np.ndarray) -> np.ndarray:
    """HᴴH [Q, Q] of what `h` has: in each row, an entry for each of `delays`."""
    row = np.arange(len(h))
    columns = [(row - delay) % len(h) for delay in delays]
    gram = np.zeros_like(h)
    for one in columns:
        for other in columns:
            gram[one, other] += h[row, one].conj() * h[row, other]
    return gram


def lmmse(grid: np.ndarray, taps: Taps, noise_variance: float) -> tuple[np.ndarray, float]:
    """x̂ = (HᴴH+σ²I)⁻¹Hᴴy on [M, N] and the bias μ; dense, O(Q³), for small grids only."""
    h = dense_time(taps, grid.size)
    gram = _gram(h, np.unique(taps.delay % grid.size))
    inverse = np.linalg.inv(gram + noise_variance * np.eye(grid.size))
    estimate = inverse @ (h.conj().T @ inverse_zak(grid))
    # tr[(G+σ²I)⁻¹G] = Q - σ² tr[(G+σ²I)⁻¹]
    mu = 1 - noise_variance * float(np.trace(inverse).real) / grid.size
    return zak(estimate, *grid.shape), mu
