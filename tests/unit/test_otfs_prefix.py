"""Frames with a cyclic prefix: the channel between the bins, its estimate, the receiver."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from foundryrt.errors import UsageError
from otfs_pipeline.frames import source
from otfs_pipeline.link import banded, frame, prefix, reference, slepian, transmit, zak
from otfs_pipeline.link.channel import Paths, raised_cosine
from otfs_pipeline.link.estimate import Estimate, estimate_with_prefix
from otfs_pipeline.link.profile import VEHICULAR_A
from otfs_pipeline.link.simulated import Channel
from otfs_pipeline.settings import Settings

LINK = Settings(grid="256x32", waveform="cp")


def error_db(got: np.ndarray, expected: np.ndarray) -> float:
    return float(20 * np.log10(np.linalg.norm(got - expected) / np.linalg.norm(expected)))


@st.composite
def bands(draw: st.DrawFn) -> Settings:
    """Links that are not refused."""
    n = draw(st.integers(10, 200))
    bins = (n - np.log2(n) - 2) / 2 - 2
    nu_max = 15e3 / n * bins * draw(st.floats(0, 0.999))
    return Settings(grid=f"64x{n}", waveform="cp", nu_max=nu_max, max_taps=20)


@profile(max_examples=60)
@given(bands(), st.sampled_from([-1.0, 1.0]) | st.floats(-1, 1), st.floats(0, 1))
def test_no_doppler_of_the_band_leaks_into_the_rows_of_noise(
    link: Settings, part: float, phase: float
) -> None:
    vectors = slepian.slepian(link)[1]
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(link.n), atol=1e-9)
    assert slepian.channel_shares(link).size <= slepian.noise_row(link) < link.n
    turns = part * slepian.band(link) * np.arange(link.n) + phase
    rows = np.abs(vectors.T @ np.exp(2j * np.pi * turns)) ** 2 / link.n
    assert rows.sum() == pytest.approx(1)
    assert rows[slepian.channel_shares(link).size :].sum() < 2e-3
    assert rows[slepian.noise_row(link) :].sum() < 2e-5


@pytest.mark.parametrize("nu", [-815.0, -333.3, 0.0, 1.0, 815.0])
@pytest.mark.parametrize("n", [32, 37])
def test_a_path_between_the_bins_is_continued_over_the_frame(n: int, nu: float) -> None:
    """A pilot's samples of one path, without noise, to the coefficients of every sample."""
    link = replace(LINK, grid=f"256x{n}")
    paths = Paths(np.array([0.6 - 0.8j]), np.array([1e-6]), np.array([nu]))
    grid = frame.pilot_grid(link)
    received = prefix.through(zak.inverse_zak(grid), paths, link)
    got = estimate_with_prefix(received, replace(link, tap_sigmas=0.0))
    assert got.noise_variance < 1e-3 * link.pilot_energy / link.q
    rng = np.random.default_rng(3)
    sent = transmit.transmit(rng.integers(0, 2, frame.payload_bits(link)), link)
    padded = np.pad(sent, (0, link.q))
    whole = banded.apply_samples(padded, banded.bands(got.taps, 2 * link.q))[: link.q]
    assert error_db(whole, prefix.through(sent, paths, link)) < -38


def test_through_follows_the_definition() -> None:
    link = Settings(grid="31x16", nu_p=30e3, guard=9, max_taps=64, waveform="cp")
    rng = np.random.default_rng(0)
    paths = VEHICULAR_A.draw(rng, link.nu_max, "rayleigh")
    sent = rng.standard_normal((link.q, 2)).view(np.complex128)[:, 0]
    expected = np.zeros(link.q, np.complex128)
    for n in range(link.q):
        for a in range(-8, link.delay_taps + 9):
            gain = (
                paths.gain
                * raised_cosine(a - link.bandwidth * paths.delay, link.rolloff)
                * np.exp(2j * np.pi * paths.doppler * (n / link.bandwidth - paths.delay))
            )
            expected[n] += gain.sum() * sent[(n - a) % link.q]
    # Tails that one of the two cuts.
    assert error_db(prefix.through(sent, paths, link), expected) < -60


@profile(max_examples=10)
@given(st.integers(0, 999))
def test_exact_taps_are_the_channel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    channel = Channel.draw(VEHICULAR_A, rng, LINK)
    sent = transmit.transmit(rng.integers(0, 2, frame.payload_bits(LINK)), LINK)
    h = banded.bands(channel.taps[0], 2 * LINK.q)
    whole = banded.apply_samples(np.pad(sent, (0, LINK.q)), h)[: LINK.q]
    # Where the frame wraps, a cyclic channel of twice the duration has its empty half.
    inner = slice(LINK.m, LINK.q - LINK.m)
    assert error_db(whole[inner], channel.apply(sent)[inner]) < -80


def test_the_noise_is_not_taken_to_be_larger_than_it_is() -> None:
    with_prefix, as_zak = [], []
    for item in source.synthetic(LINK, 25.0, 1, 6):
        samples = item.samples.astype(np.complex128)
        with_prefix.append(estimate_with_prefix(samples, LINK).noise_variance * 10**2.5)
        moved = replace(LINK, waveform="zak")
        # The pilot where the other receiver looks for it.
        shift = moved.pilot_bin[0] - LINK.pilot_bin[0]
        other = reference.receive(np.roll(samples, shift), moved).estimate
        as_zak.append(other.noise_variance * 10**2.5)
    assert np.mean(with_prefix) == pytest.approx(1, rel=0.05)
    assert np.mean(as_zak) > 5


@pytest.mark.parametrize("how", [{}, {"periods": True}, {"preconditioned": True}])
def test_the_floor_is_gone(how: dict[str, bool]) -> None:
    wrong = {"perfect": 0.0, "estimated": 0.0}
    for seed in range(6):
        rng = np.random.default_rng(seed)
        channel = Channel.draw(VEHICULAR_A, rng, LINK)
        bits = transmit.payload(seed, 0, LINK)
        noise = rng.standard_normal((LINK.q, 2)).view(np.complex128)[:, 0] * np.sqrt(0.5)
        received = channel.apply(transmit.transmit(bits, LINK)) + 10 ** (-25 / 20) * noise
        known = Estimate(channel.taps[0], 10**-2.5)
        for name, taken in (("perfect", known), ("estimated", None)):
            got = reference.receive(received, LINK, taken, **how)
            wrong[name] += np.mean(got.bits.ravel() != bits) / 6
    assert wrong["perfect"] < 1e-3
    assert wrong["estimated"] < 2e-3


@pytest.mark.parametrize("points", [4, 16, 64])
def test_high_snr_gives_the_payload_back(points: int) -> None:
    link = replace(LINK, modulation=points, iterations=150)
    item = source.simulate(link, 45.0, 11, 0)
    got = reference.receive(item.samples.astype(np.complex128), link, preconditioned=True)
    assert np.count_nonzero(got.bits.ravel() != item.bits) == 0


def test_several_antennas_are_combined() -> None:
    wrong = []
    for antennas in (1, 2):
        link = replace(LINK, grid="64x32", antennas=antennas)
        each = [
            np.mean(reference.receive(item.samples.astype(np.complex128), link).bits.ravel()
                    != item.bits)
            for item in source.synthetic(link, 15.0, 3, 6)
        ]  # fmt: skip
        wrong.append(np.mean(each))
    assert wrong[1] < wrong[0] / 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"waveform": "ofdm"}, "zak or cp"),
        ({"waveform": "cp", "pilot": "spread"}, "takes a point pilot"),
        ({"waveform": "cp", "doppler_rolloff": 0.2}, "rectangle in time"),
        ({"waveform": "cp", "nu_max": 5.6e3}, "leave nothing for the noise"),
        ({"waveform": "cp", "doppler_reach": 30}, "leave nothing for the noise"),
    ],
)
def test_what_cannot_be_sent(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Settings(**changes)  # type: ignore[arg-type]
