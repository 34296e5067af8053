"""Pilot estimate and the numpy receiver end to end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from otfs_pipeline.frames import source
from otfs_pipeline.link import banded, channel, frame, reference, transmit, zak
from otfs_pipeline.link.estimate import Estimate, estimate
from otfs_pipeline.link.profile import VEHICULAR_A
from otfs_pipeline.settings import Settings

LINK = Settings(grid="256x32")


def through(
    link: Settings, seed: int, sigma2: float
) -> tuple[np.ndarray, np.ndarray, channel.Taps]:
    rng = np.random.default_rng(seed)
    paths = VEHICULAR_A.draw(rng, link.nu_max, link.gain_model)
    taps = channel.effective_taps(paths, link.m, link.n, link.nu_p, link.rolloffs)
    bits = transmit.payload(seed, 0, link)
    clean = banded.apply_samples(transmit.transmit(bits, link), banded.bands(taps, link.q))
    noise = rng.standard_normal(link.q) + 1j * rng.standard_normal(link.q)
    return bits, clean + np.sqrt(sigma2 / 2) * noise, taps


@pytest.mark.parametrize("pilot", [(3, 0), (128, 16), (250, 30)])
def test_pilot_read_off_is_exact_even_across_the_period(pilot: tuple[int, int]) -> None:
    link = Settings(grid="256x32", tap_sigmas=0.0, max_taps=1)
    grid = np.zeros((link.m, link.n), dtype=np.complex128)
    grid[pilot] = link.pilot_amplitude
    for a in (link.first_tap, 0, 7, link.guard_bins // 2):
        for b in (-link.doppler_range, 0, 3):
            tap = channel.user_taps(np.array([0.6 - 0.7j]), np.array([a]), np.array([b]))
            got = estimate(channel.apply(grid, tap), link, pilot=pilot).taps
            kept = np.flatnonzero(got.value)
            assert kept.size == 1
            assert (got.delay[kept[0]], got.doppler[kept[0]]) == (a, b)
            assert got.value[kept[0]] == pytest.approx(0.6 - 0.7j)


def test_taps_and_noise_are_estimated() -> None:
    variances, errors = [], []
    for seed in range(5):
        _, samples, taps = through(LINK, seed, 0.01)
        got = estimate(zak.zak(samples, LINK.m, LINK.n), LINK)
        variances.append(got.noise_variance)
        found, true = (banded.bands(t, LINK.q) for t in (got.taps, taps))
        common = np.isin(true.doppler, found.doppler)
        missed = np.sum(np.abs(true.value[~common]) ** 2)
        wrong = np.sum(np.abs(true.value[common] - found.value) ** 2) + missed
        errors.append(wrong / np.sum(np.abs(true.value) ** 2))
        assert np.count_nonzero(got.taps.value) < LINK.max_taps
    assert np.mean(variances) == pytest.approx(0.01, rel=0.1)
    assert np.mean(errors) < 2e-3


def test_never_more_than_max_taps() -> None:
    link = Settings(grid="256x32", max_taps=7, tap_sigmas=0.0)
    _, samples, _ = through(link, 1, 0.01)
    got = estimate(zak.zak(samples, link.m, link.n), link)
    assert np.count_nonzero(got.taps.value) == 7


@pytest.mark.parametrize(
    ("changes", "sigma2"),
    [
        ({"modulation": 4}, 1e-2),
        ({"modulation": 16, "iterations": 60}, 1e-4),
        ({"modulation": 64, "iterations": 150}, 1e-5),
        ({"modulation": 4, "pulse": "sinc", "iterations": 40}, 1e-3),
        ({"modulation": 4, "gain_model": "rayleigh", "iterations": 60}, 1e-4),
    ],
)
def test_high_snr_gives_the_payload_back(changes: dict[str, object], sigma2: float) -> None:
    link = Settings(grid="256x32", **changes)  # type: ignore[arg-type]
    bits, samples, _ = through(link, 11, sigma2)
    got = reference.receive(samples, link)
    assert np.count_nonzero(got.bits.ravel() != bits) == 0
    sent = frame.extract(zak.zak(transmit.transmit(bits, link), link.m, link.n), link)
    assert np.mean(np.abs(got.symbols - sent) ** 2) < 0.05


def test_estimated_is_nearly_as_good_as_perfect() -> None:
    wrong = np.zeros(2)
    for seed in range(6):
        bits, samples, taps = through(LINK, seed + 40, 0.01)
        for i, known in enumerate((None, Estimate(taps, 0.01))):
            got = reference.receive(samples, LINK, known)
            wrong[i] += np.mean(got.bits.ravel() != bits)
    assert 5e-3 < wrong[1] / 6 < 5e-2
    assert wrong[0] < 1.25 * wrong[1]


def test_the_effective_noise_variance_is_that_of_the_symbols() -> None:
    bits, samples, _ = through(LINK, 4, 0.01)
    got = reference.receive(samples, LINK)
    sent = frame.extract(zak.zak(transmit.transmit(bits, LINK), LINK.m, LINK.n), LINK)
    assert np.mean(np.abs(got.symbols - sent) ** 2) == pytest.approx(got.variance, rel=0.15)
    gain = np.vdot(sent, got.symbols).real / np.vdot(sent, sent).real
    assert gain == pytest.approx(1, abs=0.02)


def test_periods_solved_alone_are_the_frame_solved_at_once() -> None:
    link = Settings(grid="256x32", iterations=200)
    _, samples, _ = through(link, 5, 1e-2)
    frame_wide = reference.receive(samples, link)
    periods = reference.receive(samples, link, periods=True)
    np.testing.assert_allclose(periods.symbols * periods.mu, frame_wide.symbols * frame_wide.mu,
                               atol=1e-9)  # fmt: skip
    assert periods.mu == pytest.approx(frame_wide.mu, rel=1e-2)


def test_periods_come_closer_in_as_many_steps() -> None:
    link = Settings(grid="256x32", iterations=10)
    _, samples, _ = through(link, 5, 1e-3)
    exact = reference.receive(samples, replace(link, iterations=300))
    frame_wide = reference.receive(samples, link)
    periods = reference.receive(samples, link, periods=True)

    def error(got: reference.Received) -> float:
        return float(np.linalg.norm(got.symbols * got.mu - exact.symbols * exact.mu))

    assert error(periods) < error(frame_wide)


def test_by_default_64_qam_has_iterations_for_as_few_errors() -> None:
    link = Settings(grid="256x32", modulation=64)
    sent = source.simulate(link, 50.0, 3, 2)
    fewer = replace(link, iterations=Settings().cg_iterations)
    wrong = [
        np.sum(reference.receive(sent.samples, one, periods=True).bits.ravel() != sent.bits)
        for one in (link, fewer)
    ]
    assert wrong[0] == 0 < wrong[1]
