"""Identities of the Zak transform, the channel and the equalizers."""
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from otfs_pipeline import channel, equalize, zak


def draw(seed: int, *shape: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def taps(seed: int) -> channel.Taps:
    rng = np.random.default_rng(seed)
    return channel.Taps(draw(seed, 6), rng.integers(-9, 9, 6), rng.integers(-9, 9, 6))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 999))
def test_identities(m: int, n: int, seed: int) -> None:
    x, y, h = draw(seed, m, n), draw(seed + 1, m, n), taps(seed)
    s = zak.inverse_zak(x)
    np.testing.assert_allclose(zak.zak(s, m, n), x, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(s), np.linalg.norm(x))
    hx = channel.apply(x, h)
    np.testing.assert_allclose(zak.zak(channel.apply_time(s, h), m, n), hx, atol=1e-10)
    np.testing.assert_allclose(np.vdot(y, hx), np.vdot(channel.apply_adjoint(y, h), x), atol=1e-9)


def test_cg_reaches_lmmse() -> None:
    y, h = draw(3, 5, 4), taps(3)
    exact, mu = equalize.lmmse(y, h, 0.5)
    np.testing.assert_allclose(equalize.conjugate_gradient(y, h, 0.5, 40), exact, atol=1e-6)
    assert 0 < mu < 1


def test_errors() -> None:
    with pytest.raises(ValueError, match="exactly one frame"):
        zak.zak(np.zeros(5), 2, 3)
    with pytest.raises(ValueError, match="gain_model"):
        channel.vehicular_a(np.random.default_rng(0), 815.0, "x")
