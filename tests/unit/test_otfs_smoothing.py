"""A sinc's delays, estimated together: the smoothing matrix, and what it is worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from otfs_pipeline.frames import source
from otfs_pipeline.link import banded, estimate, frame, prefix, reference, smoothing, transmit
from otfs_pipeline.link.channel import Paths, Taps
from otfs_pipeline.settings import Settings

LINK = Settings(grid="256x32", waveform="cp", pulse="sinc")


@profile(max_examples=40)
@given(st.floats(-0.5, 10.5), st.sampled_from(["256x32", "512x16", "1024x37"]))
def test_a_path_passes_and_little_noise_does(symbols: float, grid: str) -> None:
    link = replace(LINK, grid=grid, nu_max=300.0)
    a = link.first_tap + np.arange(link.window_delays)
    path = np.sinc(a - min(symbols, link.delay_taps + 0.5))
    matrix = smoothing.smoothing(link)
    assert np.linalg.norm(matrix @ path - path) < 0.05
    left = smoothing.left_noise(link)
    np.testing.assert_allclose(left, np.diag(matrix @ matrix.T))
    # Of as many numbers as the spread has bins, and a few.
    assert left.sum() < link.delay_taps + 8 < 0.7 * link.window_delays
    assert (left <= 1).all()


@pytest.mark.parametrize(
    "link", [replace(LINK, pulse="rrc"), replace(LINK, waveform="zak")], ids=["rrc", "zak"]
)
def test_other_links_are_left_as_they_are(link: Settings) -> None:
    np.testing.assert_array_equal(smoothing.smoothing(link), np.eye(link.window_delays))
    assert prefix.most_delays(LINK) == LINK.window_delays
    assert prefix.most_delays(replace(LINK, pulse="rrc")) < 27


def test_data_are_expected_where_they_reach_the_window() -> None:
    """Against data of a frame without a pilot, through a path anywhere in the spread."""
    rng = np.random.default_rng(1)
    k = np.arange(LINK.m)
    kp, half = LINK.pilot_bin[0], LINK.guard_bins // 2
    seen = kp + LINK.first_tap + np.arange(LINK.window_delays)
    expected = np.zeros(LINK.window_delays)
    delays = rng.uniform(-1, LINK.delay_taps + 1, 400)
    period = np.concatenate([k + turn * LINK.m for turn in (-1, 0, 1)])
    data = period[np.abs((period - kp + LINK.m // 2) % LINK.m - LINK.m // 2) > half]
    for delay in delays:
        expected += np.sum(np.sinc(seen[:, None] - data - delay) ** 2, axis=1) / delays.size
    a = seen - kp
    paths = np.arange(-1, LINK.delay_taps + 1, 1 / 8)
    got = smoothing._reaching(a, paths, LINK)
    np.testing.assert_allclose(got, expected, rtol=0.2, atol=2e-3)
    assert got[-1] > 10 * got.min()


def test_tails_are_found_that_noise_and_data_cover(monkeypatch: pytest.MonkeyPatch) -> None:
    """The channel's error, with data in the frame, with smoothing and without."""
    rng = np.random.default_rng(2)
    paths = Paths(np.array([0.8, 0.6j]), np.array([0.4e-6, 1.9e-6]), np.array([300.0, -700.0]))
    sent = transmit.transmit(rng.integers(0, 2, frame.payload_bits(LINK)), LINK)
    noise = rng.standard_normal((LINK.q, 2)).view(np.complex128)[:, 0] * np.sqrt(0.5)
    received = prefix.through(sent, paths, LINK) + 10 ** (-25 / 20) * noise
    other = rng.standard_normal((LINK.q, 2)).view(np.complex128)[:, 0]

    def through(taps: Taps) -> np.ndarray:
        inside = (LINK.first_tap <= taps.delay) & (taps.delay <= LINK.last_tap)
        taps = Taps(taps.value[inside], taps.delay[inside], taps.doppler[inside])
        whole = banded.bands(taps, 2 * LINK.q)
        return banded.apply_samples(np.pad(other, (0, LINK.q)), whole)[LINK.m : LINK.q - LINK.m]

    exact = through(prefix.exact_taps(paths, LINK))

    def error() -> float:
        got = through(estimate.estimate_with_prefix(received, LINK).taps)
        return float(np.mean(np.abs(got - exact) ** 2) / np.mean(np.abs(exact) ** 2))

    smoothed = error()
    delays = LINK.window_delays
    monkeypatch.setattr(estimate, "smoothing", lambda _: np.eye(delays))
    monkeypatch.setattr(estimate, "left_noise", lambda _: np.ones(delays))
    assert smoothed < 1e-3
    assert error() > 2.5 * smoothed


@pytest.mark.parametrize("how", [{}, {"periods": True}, {"preconditioned": True}])
def test_a_sinc_has_no_floor(how: dict[str, bool]) -> None:
    wrong = [
        np.mean(reference.receive(item.samples.astype(np.complex128), LINK, **how).bits.ravel()
                != item.bits)
        for item in source.synthetic(LINK, 25.0, 1, 6)
    ]  # fmt: skip
    assert np.mean(wrong) < 2e-3
