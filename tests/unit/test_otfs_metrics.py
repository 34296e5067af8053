"""Bit error rate and latency percentiles."""

from __future__ import annotations

import numpy as np
import pytest

from otfs_pipeline.metrics import bit_error_rate, latency_percentiles


def test_values_and_errors() -> None:
    assert bit_error_rate(np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0])) == 0.25
    got = latency_percentiles(np.arange(1001.0))
    assert got == pytest.approx({"p50": 500, "p99": 990, "p99_9": 999, "max": 1000})
    with pytest.raises(ValueError, match="nonempty"):
        bit_error_rate(np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="at least one"):
        latency_percentiles(np.array([]))
