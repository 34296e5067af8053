"""Discrete Zak transform (Zak-OTFS, arXiv 2604.02266)."""

from __future__ import annotations

import numpy as np


def zak(samples: np.ndarray, delay_bins: int, doppler_bins: int) -> np.ndarray:
    """Time samples [MN] to delay-Doppler [M, N], complex128; ValueError on a wrong length."""
    if samples.shape != (delay_bins * doppler_bins,):
        raise ValueError(
            f"zak: samples have shape {samples.shape}, need ({delay_bins * doppler_bins},); "
            "pass exactly one frame"
        )
    return np.fft.fft(samples.reshape(doppler_bins, delay_bins), axis=0, norm="ortho").T


def inverse_zak(grid: np.ndarray) -> np.ndarray:
    """Delay-Doppler grid [M, N] to time samples [MN], complex128."""
    return np.fft.ifft(grid.T, axis=0, norm="ortho").reshape(-1)


def quasi_periodic(grid: np.ndarray, delay: np.ndarray, doppler: np.ndarray) -> np.ndarray:
    """Value at any integer delay and Doppler: x[k+nM, l+mN] = x[k, l] e^{j2πnl/N}."""
    m, n = grid.shape
    turns = np.floor_divide(delay, m)
    inside = np.mod(doppler, n)
    value: np.ndarray = grid[np.mod(delay, m), inside] * np.exp(2j * np.pi * turns * inside / n)
    return value
