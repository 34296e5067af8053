"""16QAM Gray mapping (3GPP 38.211, 5.1.4) and max-log LLRs; a positive LLR means bit 0."""
from __future__ import annotations

import numpy as np

STEP = 1 / np.sqrt(10)


def modulate(bits: np.ndarray) -> np.ndarray:
    """Bits [..., 4] of 0 or 1 to unit-energy symbols [...], complex128."""
    b = 1 - 2 * np.asarray(bits, dtype=np.float64)
    return STEP * (b[..., 0] * (2 - b[..., 2]) + 1j * b[..., 1] * (2 - b[..., 3]))


def max_log_llr(symbols: np.ndarray, variance: float) -> np.ndarray:
    """Unbiased symbols [...] and effective noise variance to LLRs [..., 4]."""
    axes = np.stack([symbols.real, symbols.imag], axis=-1)
    inner = 4 * STEP * axes / variance
    outer = 8 * STEP * (axes - STEP * np.sign(axes)) / variance
    sign = np.where(np.abs(axes) <= 2 * STEP, inner, outer)
    return np.concatenate([sign, 4 * STEP * (2 * STEP - np.abs(axes)) / variance], axis=-1)
