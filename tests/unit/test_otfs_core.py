"""Identities of the Zak transform, the channel's three forms and the equalizers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otfs_pipeline.link import banded, channel, equalize, zak
from otfs_pipeline.link.profile import VEHICULAR_A

SIZES = st.integers(2, 9)


def draw(seed: int, *shape: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def taps(seed: int) -> channel.Taps:
    rng = np.random.default_rng(seed)
    return channel.user_taps(draw(seed, 6), rng.integers(-9, 9, 6), rng.integers(-9, 9, 6))


@settings(max_examples=40)
@given(SIZES, SIZES, st.integers(0, 999))
def test_zak_is_unitary_and_quasi_periodic(m: int, n: int, seed: int) -> None:
    x = draw(seed, m, n)
    s = zak.inverse_zak(x)
    np.testing.assert_allclose(zak.zak(s, m, n), x, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(s), np.linalg.norm(x))
    k, doppler, turn = seed % m, seed % n, seed % 5 - 2
    np.testing.assert_allclose(
        zak.quasi_periodic(x, np.array(k + turn * m), np.array(doppler - 3 * n)),
        x[k, doppler] * np.exp(2j * np.pi * turn * doppler / n),
        atol=1e-12,
    )


@settings(max_examples=40)
@given(SIZES, SIZES, st.integers(0, 999))
def test_three_forms_of_the_channel_agree(m: int, n: int, seed: int) -> None:
    x, y, h = draw(seed, m, n), draw(seed + 1, m, n), taps(seed)
    s = zak.inverse_zak(x)
    hx = channel.apply(x, h)
    received = channel.apply_time(s, h)
    np.testing.assert_allclose(zak.zak(received, m, n), hx, atol=1e-10)
    np.testing.assert_allclose(
        banded.apply_samples(s, banded.bands(h, m * n)), received, atol=1e-10
    )
    np.testing.assert_allclose(equalize.dense_time(h, m * n) @ s, received, atol=1e-10)
    np.testing.assert_allclose(np.vdot(y, hx), np.vdot(channel.apply_adjoint(y, h), x), atol=1e-9)


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(0, 999))
def test_banded_adjoint(q: int, seed: int) -> None:
    s, r, h = draw(seed, q), draw(seed + 1, q), banded.bands(taps(seed), q)
    left = np.vdot(r, banded.apply(s, h))
    np.testing.assert_allclose(left, np.vdot(banded.apply_adjoint(r, h), s), atol=1e-8)


@pytest.mark.parametrize("iterations", [1, 4, 9])
def test_cg_iterates_are_the_same_in_both_domains(iterations: int) -> None:
    m, n = 9, 6
    y, h = draw(5, m, n), taps(5)
    mask = np.ones((m, n))
    mask[3:5] = 0
    one = equalize.delay_doppler_cg(y, h, 0.3, iterations, mask)
    other = equalize.frequency_cg(
        zak.inverse_zak(y), banded.bands(h, m * n), 0.3, iterations, np.tile(mask[:, 0], n)
    )
    np.testing.assert_allclose(zak.zak(other.x, m, n), one.x, atol=1e-10)
    np.testing.assert_allclose(other.alpha, one.alpha, rtol=1e-8)
    np.testing.assert_allclose(other.beta, one.beta, rtol=1e-7)
    assert not one.x[3:5].any()


def test_cg_reaches_lmmse_and_its_bias() -> None:
    y, h = draw(3, 5, 4), taps(3)
    exact, mu = equalize.lmmse(y, h, 0.5)
    solution = equalize.delay_doppler_cg(y, h, 0.5, 40)
    np.testing.assert_allclose(solution.x, exact, atol=1e-6)
    gram = equalize.dense_time(h, 20)
    eigenvalue = np.linalg.eigvalsh(gram.conj().T @ gram)
    # As many steps as eigenvalues: the polynomial is LMMSE's on each of them.
    steps = equalize.delay_doppler_cg(y, h, 0.5, 20)
    got, variance = equalize.bias(steps, eigenvalue, 0.5)
    assert got == pytest.approx(mu, rel=1e-3)
    assert variance == pytest.approx(1 / mu - 1, rel=1e-2)


def test_bias_is_measured_on_a_fading_channel() -> None:
    m, n, nu_p, sigma2, rng = 128, 32, 15e3, 0.01, np.random.default_rng(8)
    h = channel.effective_taps(VEHICULAR_A.draw(rng, 815.0, "fixed"), m, n, nu_p, (0.6, 0.6))
    sent = np.exp(2j * np.pi * rng.random((m, n)))
    noise = np.sqrt(sigma2 / 2) * draw(9, m * n)
    bands = banded.bands(h, m * n)
    received = banded.apply_samples(zak.inverse_zak(sent), bands) + noise
    for iterations in (5, 20):
        solution = equalize.frequency_cg(received, bands, sigma2, iterations)
        mu, variance = equalize.bias(solution, equalize.eigenvalues(h, (64, 128)), sigma2)
        found = zak.zak(solution.x, m, n)
        assert np.vdot(sent, found).real / sent.size == pytest.approx(mu, rel=0.02)
        assert np.mean(np.abs(found / mu - sent) ** 2) == pytest.approx(variance, rel=0.12)


def test_errors() -> None:
    with pytest.raises(ValueError, match="exactly one frame"):
        zak.zak(np.zeros(5), 2, 3)
    with pytest.raises(ValueError, match="gain_model"):
        VEHICULAR_A.draw(np.random.default_rng(0), 815.0, "x")
    for arguments, reason in (
        (([1.0], [0, 1], [0]), "one delay"),
        (([np.nan], [0], [0]), "finite"),
        (([1.0], [0.5], [0]), "whole bins"),
    ):
        with pytest.raises(ValueError, match=reason):
            channel.user_taps(*map(np.array, arguments))
