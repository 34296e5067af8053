"""Bit error rate and latency percentiles."""

from __future__ import annotations

import numpy as np


def bit_error_rate(sent: np.ndarray, decided: np.ndarray) -> float:
    """Fraction of differing bits; ValueError where shapes differ or nothing was sent."""
    if sent.shape != decided.shape or sent.size == 0:
        raise ValueError(
            f"bit_error_rate: shapes {sent.shape} and {decided.shape}; pass equal, nonempty arrays"
        )
    return float(np.mean(sent != decided))


def latency_percentiles(milliseconds: np.ndarray) -> dict[str, float]:
    """p50, p99, p99_9 and max in ms; ValueError without a measurement."""
    if np.size(milliseconds) == 0:
        raise ValueError("latency_percentiles: no measurements; run at least one frame")
    p50, p99, p99_9, top = np.percentile(milliseconds, [50, 99, 99.9, 100])
    return {"p50": float(p50), "p99": float(p99), "p99_9": float(p99_9), "max": float(top)}
