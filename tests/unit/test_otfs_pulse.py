"""Separable effective taps against the exact twisted convolution of both pulses.

h_eff = w_rx *σ h *σ w_tx with w_rx(τ,ν) = e^{j2πντ} w_tx*(-τ,-ν) leaves, for one path, the phase
e^{j2πν_i(τ-τ_i)} times one ambiguity integral in delay and one in Doppler:
∫ w(-x) w(d-x) e^{-j2πεx} dx, evaluated over the pulse's spectrum, which is compact.
"""

from __future__ import annotations

import numpy as np
import pytest

from otfs_pipeline.link import channel
from otfs_pipeline.link.profile import VEHICULAR_A


def root_spectrum(f: np.ndarray, rolloff: float) -> np.ndarray:
    edge = np.clip((np.abs(f) - (1 - rolloff) / 2) / rolloff, 0, 1) if rolloff else np.abs(f) > 0.5
    return np.cos(np.pi / 2 * edge) if rolloff else np.where(edge, 0.0, 1.0)


def ambiguity(d: np.ndarray, epsilon: np.ndarray, rolloff: float) -> np.ndarray:
    """∫ w(-x) w(d-x) e^{-j2πεx} dx for even real w, broadcast over d and ε."""
    # w(d-x) = ∫ W(f) e^{j2πf(d-x)} df, so the integral is ∫ W(f) W(f+ε) e^{j2πfd} df.
    count = 4001
    f = (np.arange(count) + 0.5) / count * 2 - 1
    d, epsilon = np.broadcast_arrays(d, epsilon)
    spectrum = root_spectrum(f, rolloff) * root_spectrum(f + epsilon[..., None], rolloff)
    return (spectrum * np.exp(2j * np.pi * f * d[..., None])).mean(-1) * 2


def exact_taps(
    paths: channel.Paths, a: np.ndarray, b: np.ndarray, m: int, n: int, nu_p: float, rolloff: float
) -> np.ndarray:
    bandwidth, frame = m * nu_p, n / nu_p
    value = np.zeros((a.size, b.size), dtype=np.complex128)
    for h, tau, nu in zip(paths.gain, paths.delay, paths.doppler, strict=True):
        delay = ambiguity(a - bandwidth * tau, np.full(a.size, nu / bandwidth), rolloff)
        # In Doppler the other phase is e^{+j2πν'τ}: ε = -τ/T.
        shape = (a.size, b.size)
        d = np.broadcast_to(b - frame * nu, shape)
        epsilon = np.broadcast_to(-(a / bandwidth / frame)[:, None], shape)
        phase = np.exp(2j * np.pi * nu * (a / bandwidth - tau))
        value += h * (phase * delay)[:, None] * ambiguity(d, epsilon, rolloff)
    return value


def separable_error(paths: channel.Paths, m: int, n: int, nu_p: float, rolloff: float) -> float:
    taps = channel.effective_taps(paths, m, n, nu_p, (rolloff, rolloff))
    a, b = np.unique(taps.delay), np.unique(taps.doppler)
    exact = exact_taps(paths, a, b, m, n, nu_p, rolloff)
    error = np.linalg.norm(taps.value.reshape(exact.shape) - exact)
    return float(error / np.linalg.norm(exact))


@pytest.mark.parametrize(
    ("m", "n", "nu_p", "named"), [(31, 37, 30e3, 1.2e-3), (1024, 32, 15e3, 7e-4)]
)
def test_separable_form_is_as_close_as_named(m: int, n: int, nu_p: float, named: float) -> None:
    paths = VEHICULAR_A.draw(np.random.default_rng(1), 815.0, "fixed")
    assert named / 5 < separable_error(paths, m, n, nu_p, 0.6) < named


def test_the_furthest_path_has_the_named_error() -> None:
    furthest = channel.Paths(np.array([1.0]), np.array([2.51e-6]), np.array([815.0]))
    assert separable_error(furthest, 31, 37, 30e3, 0.6) == pytest.approx(1.23e-3, rel=0.02)


def test_sinc_separable_form_is_close() -> None:
    paths = channel.Paths(np.array([1.0]), np.array([1.09e-6]), np.array([500.0]))
    assert separable_error(paths, 128, 32, 15e3, 0.0) < 1e-2


@pytest.mark.parametrize("rolloff", [0.0, 0.2, 0.6, 1.0])
def test_raised_cosine_is_the_autocorrelation(rolloff: float) -> None:
    special = [1 / (2 * rolloff)] if rolloff else []
    x = np.array([0.0, 0.3, 0.8333333, 1.0, 2.5, -4.2, *special])
    expected = ambiguity(x, np.zeros(x.size), rolloff)
    np.testing.assert_allclose(channel.raised_cosine(x, rolloff), expected, atol=2e-3)
    integers = channel.raised_cosine(np.arange(-9, 10), rolloff)
    np.testing.assert_allclose(integers, np.arange(-9, 10) == 0, atol=1e-12)


def test_taps_hold_the_energy_of_the_paths() -> None:
    paths = VEHICULAR_A.draw(np.random.default_rng(2), 815.0, "fixed")
    assert np.sum(np.abs(paths.gain) ** 2) == pytest.approx(1)
    for m in (31, 256):
        taps = channel.effective_taps(paths, m, 37, 30e3, (0.6, 0.6))
        doubled = channel.effective_taps(paths, m, 37, 30e3, (0.6, 0.6), reach=16)
        energy = [np.sum(np.abs(t.value) ** 2) for t in (taps, doubled)]
        assert energy[0] == pytest.approx(energy[1], rel=1e-4)
