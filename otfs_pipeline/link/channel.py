"""Doubly dispersive channel: paths, effective taps, H and its adjoint (arXiv 2604.02266)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from otfs_pipeline.link.zak import quasi_periodic


@dataclass(frozen=True)
class Paths:
    """Physical paths, each array [P]: complex gain, delay in seconds, Doppler in hertz."""

    gain: np.ndarray
    delay: np.ndarray
    doppler: np.ndarray


@dataclass(frozen=True)
class Taps:
    """Effective taps, each array [L]: complex value, integer delay a and Doppler b in bins."""

    value: np.ndarray
    delay: np.ndarray
    doppler: np.ndarray


def raised_cosine(x: np.ndarray, rolloff: float) -> np.ndarray:
    """RRC autocorrelation at x symbol periods; rolloff 0 gives sinc."""
    x = np.asarray(x, dtype=np.float64)
    denominator = 1 - (2 * rolloff * x) ** 2
    singular = np.abs(denominator) < 1e-9
    safe = np.where(singular, 1.0, denominator)
    smooth = np.where(singular, np.pi / 4, np.cos(np.pi * rolloff * x) / safe)
    response: np.ndarray = np.sinc(x) * smooth
    return response


def effective_taps(
    paths: Paths, m: int, n: int, nu_p: float, rolloffs: tuple[float, float], reach: int = 8
) -> Taps:
    """Separable effective taps of RRC pulses with these roll-offs in delay and Doppler; 0 is sinc.

    They cover `reach` bins beyond the paths' spread, and at most one period of the grid; the
    pulses' tails outside are cut.
    """
    bandwidth, frame = m * nu_p, n / nu_p
    a = _support(bandwidth * paths.delay, reach, m)
    b = _support(frame * paths.doppler, reach, n)
    value = np.zeros((a.size, b.size), dtype=np.complex128)
    for h, tau, nu in zip(paths.gain, paths.delay, paths.doppler, strict=True):
        phase = np.exp(2j * np.pi * nu * (a / bandwidth - tau))
        value += h * np.outer(
            phase * raised_cosine(a - bandwidth * tau, rolloffs[0]),
            raised_cosine(b - frame * nu, rolloffs[1]),
        )
    aa, bb = np.meshgrid(a, b, indexing="ij")
    return Taps(value.ravel(), aa.ravel(), bb.ravel())


def _support(position: np.ndarray, reach: int, period: int) -> np.ndarray:
    low = int(np.floor(position.min()))
    high = int(np.ceil(position.max()))
    reach = min(reach, max(0, (period - 1 - (high - low)) // 2))
    return np.arange(low - reach, high + reach + 1)


def user_taps(value: np.ndarray, delay: np.ndarray, doppler: np.ndarray) -> Taps:
    """Taps given by hand, [L] each; ValueError unless finite, of one length, on integer bins."""
    taps = Taps(np.asarray(value, np.complex128), np.asarray(delay), np.asarray(doppler))
    bins = np.concatenate([np.ravel(taps.delay), np.ravel(taps.doppler)]).astype(np.float64)
    if not taps.value.shape == taps.delay.shape == taps.doppler.shape == (taps.value.size,):
        raise ValueError("user_taps: give one delay and one Doppler bin for each value")
    if taps.value.size == 0 or not np.isfinite(taps.value).all():
        raise ValueError("user_taps: values must be finite, and one at least must be given")
    if not np.array_equal(bins, np.round(bins)):
        raise ValueError("user_taps: delays and Dopplers are whole bins")
    return Taps(taps.value, taps.delay.astype(np.int64), taps.doppler.astype(np.int64))


def apply_time(samples: np.ndarray, taps: Taps) -> np.ndarray:
    """Cyclic time-domain channel on samples [Q]."""
    q, index = samples.size, np.arange(samples.size)
    out = np.zeros(q, dtype=np.complex128)
    for h, a, b in zip(taps.value, taps.delay, taps.doppler, strict=True):
        out += h * np.roll(samples, a) * np.exp(2j * np.pi * b * (index - a) / q)
    return out


def apply(grid: np.ndarray, taps: Taps) -> np.ndarray:
    """H x on a grid [M, N]: the twisted convolution, written as a gather."""
    m, n = grid.shape
    k, doppler = np.arange(m)[:, None], np.arange(n)[None, :]
    out = np.zeros((m, n), dtype=np.complex128)
    for h, a, b in zip(taps.value, taps.delay, taps.doppler, strict=True):
        shifted = quasi_periodic(grid, k - a, doppler - b)
        out += h * shifted * np.exp(2j * np.pi * b * (k - a) / (m * n))
    return out


def apply_adjoint(grid: np.ndarray, taps: Taps) -> np.ndarray:
    """H^H y on a grid [M, N]."""
    m, n = grid.shape
    k, doppler = np.arange(m)[:, None], np.arange(n)[None, :]
    out = np.zeros((m, n), dtype=np.complex128)
    for h, a, b in zip(taps.value, taps.delay, taps.doppler, strict=True):
        shifted = quasi_periodic(grid, k + a, doppler + b)
        out += np.conj(h) * shifted * np.exp(-2j * np.pi * b * k / (m * n))
    return out
