"""The CUDA kernels for spread pilots and frames with a prefix, run on the CPU, against numpy."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foundryrt.errors import UsageError
from otfs_pipeline.frames import source
from otfs_pipeline.link import reference
from otfs_pipeline.receiver.kernels.geometry import Geometry
from otfs_pipeline.settings import Settings
from tests.host.kernels_on_cpu import check_alike, receive

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on this machine")
SPREAD = {"pilot": "spread", "iterations": 8}
PREFIX = {"waveform": "cp", "iterations": 8}


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
        # Fewer delays than a sinc has tails, in several blocks of the window.
        (PREFIX | {"grid": "256x32", "pulse": "sinc", "antennas": 2, "max_taps": 20}, None, 1e-4),
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
    exact = reference.receive(
        samples.astype(np.complex128), link, periods=True, blocks=geometry.blocks
    )
    check_alike(got, exact, frame.bits, 1e-4, close)
    assert np.min(got["taps"]) > 0


@pytest.mark.parametrize("kind", [SPREAD, PREFIX], ids=["spread", "prefix"])
def test_a_frame_of_zeros_ends_and_a_spoilt_one_shows(kind: dict[str, Any], tmp_path: Path) -> None:
    link = Settings(**kind | {"grid": "64x32", "iterations": 2})
    got = receive(np.zeros(link.q, np.complex64), Geometry.of(link), tmp_path)
    assert got["noise_variance"] == 0 and got["taps"] == 0 and np.isnan(got["variance"])
    samples = source.simulate(link, 20.0, 3, 0).samples.copy()
    samples[5] = np.nan
    got = receive(samples, Geometry.of(link), tmp_path)
    assert np.isnan(got["variance"]) and np.isnan(got["llr"]).all()


def test_a_strip_that_no_block_can_hold_is_refused() -> None:
    with pytest.raises(UsageError, match="pilot of 6001 delay bins: the CUDA receiver takes 5"):
        Geometry.of(Settings(grid="16384x32", pilot="spread", guard=6001))
