"""Gray 4/16/64-QAM (3GPP 38.211, 5.1.3 to 5.1.5) and max-log LLRs; a positive LLR means bit 0.

Even bits choose the real part and odd bits the imaginary part, each a Gray-coded amplitude, so
that the exact max-log LLR is a search over one axis.
"""

from __future__ import annotations

import numpy as np


def amplitudes(points: int) -> np.ndarray:
    """Levels of one axis [√points] at unit symbol energy; index = its bits, first bit highest."""
    bits = (points.bit_length() - 1) // 2
    index = np.arange(1 << bits)
    level = np.zeros(index.size)
    for position in reversed(range(bits)):
        sign = 1 - 2 * ((index >> (bits - 1 - position)) & 1)
        level = sign * ((1 << (bits - 1 - position)) - level)
    return np.asarray(level / np.sqrt(2 * (points - 1) / 3))


def modulate(bits: np.ndarray, points: int) -> np.ndarray:
    """Bits [..., log2 points] of 0 or 1 to unit-energy symbols [...], complex128."""
    bits = np.asarray(bits, dtype=np.int64)
    weight = 1 << np.arange(bits.shape[-1] // 2)[::-1]
    level = amplitudes(points)
    symbols: np.ndarray = level[bits[..., 0::2] @ weight] + 1j * level[bits[..., 1::2] @ weight]
    return symbols


def nearest_energy(variance: float, points: int) -> float:
    """Mean squared distance of noisy symbols, of unit energy, from the nearest points.

    Less than the variance where noise carries symbols to other points. By sums over its density.
    """
    level = amplitudes(points)
    offset, step = np.linspace(-6, 6, 601, retstep=True)
    density = step * np.exp(-(offset**2) / 2) / np.sqrt(2 * np.pi)
    received = level[:, None] + np.sqrt(variance / 2) * offset
    nearest = np.abs(received[..., None] - level).min(axis=-1)
    return float(2 * (nearest**2 @ density).mean())


def max_log_llr(symbols: np.ndarray, variance: float, points: int) -> np.ndarray:
    """Unbiased symbols [...] and effective noise variance to exact max-log LLRs [..., bits]."""
    level = amplitudes(points)
    axes = np.stack([symbols.real, symbols.imag], axis=-1)
    distance = (axes[..., None] - level) ** 2 / variance
    axis_bits = level.size.bit_length() - 1
    llr = []
    for position in range(axis_bits):
        one = (np.arange(level.size) >> (axis_bits - 1 - position)) & 1 == 1
        llr.append(distance[..., one].min(-1) - distance[..., ~one].min(-1))
    return np.concatenate(llr, axis=-1)
