"""16QAM LLRs against a search over all sixteen points."""
from __future__ import annotations

import numpy as np

from otfs_pipeline.qam16 import max_log_llr, modulate


def test_llr_is_exact_max_log() -> None:
    bits = (np.arange(16)[:, None] >> np.arange(4)) & 1
    rng = np.random.default_rng(1)
    z = rng.standard_normal(200) + 1j * rng.standard_normal(200)
    cost = np.abs(z[:, None] - modulate(bits)) ** 2 / 0.3
    expected = np.stack([cost[:, bits[:, i] == 1].min(1) - cost[:, bits[:, i] == 0].min(1)
                         for i in range(4)], axis=1)
    np.testing.assert_allclose(max_log_llr(z, 0.3), expected, atol=1e-10)
