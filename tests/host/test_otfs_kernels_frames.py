"""The CUDA kernels for spread pilots and for frames with a prefix, run on the CPU, against numpy."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foundryrt.errors import UsageError
from otfs_pipeline.frames import source
from otfs_pipeline.link import reference
from otfs_pipeline.receiver.kernels.geometry import Geometry
from otfs_pipeline.receiver.kernels.platforms import HOPPER, PLATFORMS
from otfs_pipeline.settings import Settings
from tests.host.kernels_on_cpu import receive

on_cpu = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on this machine")
SPREAD = {"pilot": "spread", "iterations": 8}
PREFIX = {"waveform": "cp", "iterations": 8}


@on_cpu
@pytest.mark.parametrize(
    ("changes", "division", "close"),
    [
        (SPREAD | {"grid": "64x32"}, None, 1e-4),
        (SPREAD | {"grid": "61x37", "nu_p": 30e3, "guard": 35, "iterations": 6}, None, 1e-4),
        # Few of many taps; antennas have different ones.
        (SPREAD | {"grid": "256x32", "antennas": 2, "gain_model": "rayleigh", "max_taps": 12},
         None, 1e-4),
        # Blocks that exchange edges.
        (SPREAD | {"grid": "256x32"}, (3, 4, 2), 2e-2),
        # More than 256 delays.
        (SPREAD | {"grid": "1024x32", "guard": 561, "max_taps": 60, "iterations": 4}, None, 5e-3),
        (PREFIX | {"grid": "64x32"}, None, 1e-4),
        (PREFIX | {"grid": "45x37", "nu_p": 30e3, "iterations": 6}, None, 1e-4),
        (PREFIX | {"grid": "256x32", "antennas": 2, "gain_model": "rayleigh", "max_taps": 40},
         None, 1e-4),
        (PREFIX | {"grid": "256x32"}, (3, 4, 2), 2e-2),
        (PREFIX | {"grid": "64x32", "pulse": "sinc", "guard": 31}, None, 1e-4),
    ],
)  # fmt: skip
def test_kernels_agree_with_numpy(
    changes: dict[str, Any], division: tuple[int, int, int] | None, close: float, tmp_path: Path
) -> None:
    link = Settings(**changes)
    geometry = Geometry(link, *division) if division else Geometry.of(link)
    frame = source.simulate(link, 20.0, 3, 0)
    samples = frame.samples
    if link.antennas > 1:
        samples = samples * np.array([1.0, 3.0], np.float32)[:, None]
    got = receive(samples, geometry, tmp_path)
    exact = reference.receive(samples.astype(np.complex128), link, periods=True)
    kept = [np.count_nonzero(e.taps.value) for e in exact.estimates]
    noise = [e.noise_variance for e in exact.estimates]
    assert np.atleast_1d(got["taps"]).tolist() == kept
    assert min(kept) > 0
    np.testing.assert_allclose(np.atleast_1d(got["noise_variance"]), noise, rtol=1e-4)
    assert got["mu"] == pytest.approx(exact.mu, rel=1e-4)
    assert got["variance"] == pytest.approx(exact.variance, rel=1e-2)
    np.testing.assert_allclose(got["symbols"], exact.symbols, atol=close)
    assert np.mean(got["bits"] != exact.bits) < 1e-3
    assert np.mean(got["bits"].ravel() != frame.bits) < 0.1
