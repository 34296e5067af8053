"""Confidence intervals by resampling frames: the bits of one frame err together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_RESAMPLES = 2000


def interval(
    frames: np.ndarray, statistic: Callable[[np.ndarray], float], seed: int = 0
) -> tuple[float, float] | None:
    """Percentile bootstrap, 95 %, of `statistic` of values [frames, ...]; frames stay whole.

    None where the statistic is not finite on one resample in twenty or more.
    """
    rng = np.random.default_rng(seed)
    count = frames.shape[0]
    values = np.array([statistic(frames[rng.integers(0, count, count)]) for _ in range(_RESAMPLES)])
    finite = values[np.isfinite(values)]
    if finite.size <= 0.95 * values.size:
        return None
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)


def snr_at(target: float, snrs: np.ndarray, ber: np.ndarray) -> float:
    """SNR in dB where BER falls through `target`, log BER interpolated; NaN outside the points."""
    with np.errstate(divide="ignore"):
        log = np.log10(ber)
    for i in range(len(snrs) - 1):
        if log[i] >= np.log10(target) > log[i + 1] and np.isfinite(log[i + 1]):
            share = (log[i] - np.log10(target)) / (log[i] - log[i + 1])
            return float(snrs[i] + share * (snrs[i + 1] - snrs[i]))
    return float("nan")
