"""Gray QAM and its LLRs against 38.211 and a search over the whole constellation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otfs_pipeline.link import qam

ORDERS = (4, 16, 64)


def constellation(points: int) -> tuple[np.ndarray, np.ndarray]:
    bits = (np.arange(points)[:, None] >> np.arange(points.bit_length() - 1)) & 1
    return bits, qam.modulate(bits, points)


@pytest.mark.parametrize("points", ORDERS)
def test_mapping_is_that_of_38_211(points: int) -> None:
    bits, symbols = constellation(points)
    b = (1 - 2 * bits).T
    if points == 4:
        expected = (b[0] + 1j * b[1]) / np.sqrt(2)
    elif points == 16:
        expected = (b[0] * (2 - b[2]) + 1j * b[1] * (2 - b[3])) / np.sqrt(10)
    else:
        expected = b[0] * (4 - b[2] * (2 - b[4])) + 1j * b[1] * (4 - b[3] * (2 - b[5]))
        expected = expected / np.sqrt(42)
    np.testing.assert_allclose(symbols, expected, atol=1e-15)
    assert np.mean(np.abs(symbols) ** 2) == pytest.approx(1)
    near = np.abs(symbols[:, None] - symbols)
    neighbour = np.isclose(near, near[near > 1e-9].min())
    differing = (bits[:, None] != bits).sum(-1)
    assert (differing[neighbour] == 1).all()


@settings(max_examples=30)
@given(st.sampled_from(ORDERS), st.integers(0, 999), st.floats(1e-3, 10))
def test_llr_is_exact_max_log(points: int, seed: int, variance: float) -> None:
    bits, symbols = constellation(points)
    rng = np.random.default_rng(seed)
    z = rng.standard_normal(50) + 1j * rng.standard_normal(50)
    cost = np.abs(z[:, None] - symbols) ** 2 / variance
    expected = [
        cost[:, bits[:, i] == 1].min(1) - cost[:, bits[:, i] == 0].min(1)
        for i in range(bits.shape[1])
    ]
    got = qam.max_log_llr(z, variance, points)
    np.testing.assert_allclose(got, np.stack(expected, axis=1), rtol=1e-9, atol=1e-9 / variance)


@settings(max_examples=30)
@given(st.sampled_from(ORDERS), st.integers(0, 999))
def test_hard_decisions_return_the_bits(points: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (7, 5, points.bit_length() - 1))
    llr = qam.max_log_llr(qam.modulate(bits, points), 0.1, points)
    np.testing.assert_array_equal(llr < 0, bits == 1)
