"""The receivers of the host, native and in torch, against the float64 numpy receiver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from otfs_pipeline.frames import source
from otfs_pipeline.link import frame, reference, zak
from otfs_pipeline.link.channel import Taps, apply
from otfs_pipeline.link.profile import VEHICULAR_A
from otfs_pipeline.receiver import pilot
from otfs_pipeline.receiver.eager import Receiver
from otfs_pipeline.receiver.native import NativeReceiver
from otfs_pipeline.receiver.tables import tables
from otfs_pipeline.settings import Settings

Receive = Callable[[Settings, np.ndarray], dict[str, np.ndarray]]


def in_torch(link: Settings, samples: np.ndarray) -> dict[str, np.ndarray]:
    constants = {name: torch.from_numpy(value) for name, value in tables(link).items()}
    got = Receiver(link, constants)(torch.from_numpy(samples))
    return {name: tensor.numpy() for name, tensor in got.items()}


def native(link: Settings, samples: np.ndarray) -> dict[str, np.ndarray]:
    got = NativeReceiver(link)(torch.from_numpy(samples))
    return {name: tensor.numpy() for name, tensor in got.items()}


@pytest.fixture(params=[in_torch, native])
def receive(request: pytest.FixtureRequest) -> Receive:
    return request.param


@pytest.mark.parametrize(
    ("changes", "snr_db"),
    [
        ({"grid": "64x32", "modulation": 4}, 10.0),
        ({"grid": "256x32", "modulation": 16}, 20.0),
        ({"grid": "256x32", "modulation": 64, "iterations": 80}, 30.0),
        ({"grid": "256x32", "max_taps": 8}, 20.0),
        ({"grid": "256x32", "pulse": "sinc", "gain_model": "rayleigh"}, 20.0),
        ({"grid": "1024x32", "guard": 97, "iterations": 10}, 20.0),
        ({"grid": "31x37", "nu_p": 30e3, "guard": 9, "max_taps": 64}, 20.0),
        ({"grid": "64x32", "pilot": "spread"}, 20.0),
        ({"grid": "256x32", "pilot": "spread", "pilot_db": 33.0, "max_taps": 90}, 25.0),
        ({"grid": "256x32", "pilot": "spread", "guard": 51, "nu_max": 300.0}, 15.0),
        ({"grid": "31x37", "pilot": "spread", "nu_p": 30e3, "guard": 9, "max_taps": 52}, 20.0),
    ],
)
def test_agrees_with_numpy(receive: Receive, changes: dict[str, Any], snr_db: float) -> None:
    agrees_with_numpy(receive, Settings(**changes), snr_db)


@pytest.mark.parametrize(
    ("changes", "snr_db"),
    [
        ({"grid": "64x32"}, 20.0),
        ({"grid": "256x32", "modulation": 64, "iterations": 80}, 30.0),
        ({"grid": "256x32", "pulse": "sinc", "gain_model": "rayleigh"}, 20.0),
        ({"grid": "128x16", "nu_max": 300.0, "max_taps": 30}, 20.0),
        # Taps of all delays, by which the pilot reaches data.
        ({"grid": "64x37", "tap_sigmas": 0.5, "max_taps": 300}, 20.0),
        ({"grid": "64x32", "antennas": 2}, 15.0),
    ],
)
def test_frames_with_a_prefix_agree_with_numpy(changes: dict[str, Any], snr_db: float) -> None:
    agrees_with_numpy(native, Settings(waveform="cp", **changes), snr_db)


def agrees_with_numpy(receive: Receive, link: Settings, snr_db: float) -> None:
    sent = source.simulate(link, snr_db, 3, 0)
    got = receive(link, sent.samples)
    samples = sent.samples.astype(np.complex128)
    exact = reference.receive(samples, link, preconditioned=receive is native)
    kept = [np.count_nonzero(one.taps.value) for one in exact.estimates]
    np.testing.assert_array_equal(got["taps"].ravel(), kept)
    noise = [one.noise_variance for one in exact.estimates]
    np.testing.assert_allclose(got["noise_variance"].ravel(), noise, rtol=1e-4)
    assert got["mu"] == pytest.approx(exact.mu, rel=1e-4)
    assert got["variance"] == pytest.approx(exact.variance, rel=1e-3)
    np.testing.assert_allclose(got["symbols"], exact.symbols, atol=1e-3)
    np.testing.assert_allclose(got["llr"], exact.llr, atol=1e-3 * np.abs(exact.llr).max())
    np.testing.assert_array_equal(got["bits"], got["llr"] < 0)
    assert np.mean(got["bits"] != exact.bits) < 1e-4
    assert np.mean(got["bits"].ravel() != sent.bits) < 0.2


@pytest.mark.parametrize("kind", ["point", "spread"])
def test_a_frame_of_zeros_gives_no_surprise(receive: Receive, kind: str) -> None:
    link = Settings(grid="64x32", pilot=kind)
    got = receive(link, np.zeros(link.q, np.complex64))
    assert got["llr"].shape == (link.m * link.n - link.guard_bins * link.n, 4)
    assert got["noise_variance"] == 0
    assert np.isnan(got["variance"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -1j * np.inf])
@pytest.mark.parametrize("position", [0, 9, 64 * 16 + 31, 64 * 32 - 1])
@pytest.mark.parametrize("kind", ["point", "spread"])
def test_a_sample_that_is_not_finite_shows_in_the_variance(
    receive: Receive, kind: str, position: int, value: complex
) -> None:
    link = Settings(grid="64x32", pilot=kind)
    samples = source.simulate(link, 20.0, 3, 0).samples.copy()
    samples[position] = value
    got = receive(link, samples)
    assert np.isnan(got["variance"])
    assert np.isnan(got["llr"]).all()


@pytest.mark.parametrize("value", [np.nan, -1j * np.inf])
@pytest.mark.parametrize("position", [0, 9, 64 * 16 + 12, 64 * 31 + 52])
def test_of_a_frame_with_a_prefix_it_shows_too(position: int, value: complex) -> None:
    link = Settings(grid="64x32", waveform="cp")
    samples = source.simulate(link, 20.0, 3, 0).samples.copy()
    good = native(link, samples)
    assert np.isfinite(good["variance"]) and np.isfinite(good["llr"]).all()
    samples[position] = value
    got = native(link, samples)
    assert np.isnan(got["variance"]) and np.isnan(got["llr"]).all()
    assert np.isnan(native(link, np.zeros_like(samples))["variance"])


def test_a_spread_pilots_frame_becomes_that_of_a_point() -> None:
    link = Settings(grid="64x32", pilot="spread")
    rng = np.random.default_rng(4)
    taps = VEHICULAR_A.taps(rng, link)
    h = np.zeros((2 * link.doppler_range + 1, link.window_delays), np.complex64)
    row, column = taps.doppler + link.doppler_range, taps.delay - link.first_tap
    inside = (row >= 0) & (row < h.shape[0]) & (column >= 0) & (column < h.shape[1])
    h[row[inside], column[inside]] = taps.value[inside]
    grids = [frame.pilot_grid(link), np.zeros((link.m, link.n), np.complex128)]
    grids[1][link.pilot_bin] = link.pilot_amplitude
    kept = Taps(taps.value[inside], taps.delay[inside], taps.doppler[inside])
    spread, point = (zak.inverse_zak(apply(grid, kept)) for grid in grids)
    tables = {name: torch.from_numpy(x) for name, x in pilot.tables(link).items()}
    got = pilot.with_a_point(
        torch.from_numpy(spread.astype(np.complex64)), torch.from_numpy(h), link, tables
    )
    np.testing.assert_allclose(got.numpy(), point, atol=1e-5)
    assert np.abs(spread - point).max() > 1
