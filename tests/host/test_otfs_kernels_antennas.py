"""The CUDA kernels for several antennas, run on the CPU, against the float64 receiver."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foundryc.cuda.kernels import compile_source
from foundryrt.errors import UsageError
from otfs_pipeline.frames import source
from otfs_pipeline.link import reference
from otfs_pipeline.receiver.kernels import program, quality
from otfs_pipeline.receiver.kernels.geometry import Geometry
from otfs_pipeline.receiver.kernels.platforms import HOPPER
from otfs_pipeline.settings import Settings
from tests.host.kernels_on_cpu import check_alike, receive

on_cpu = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on this machine")
TWO = Settings(grid="256x32", antennas=2, iterations=8)


@on_cpu
@pytest.mark.parametrize(
    ("changes", "division", "close"),
    [
        ({"grid": "64x32", "antennas": 2, "iterations": 12}, None, 1e-4),
        ({"grid": "64x32", "antennas": 4, "iterations": 12, "pulse": "sinc", "guard": 31}, None,
         1e-4),
        # Taps that few antennas have, and more of them than one antenna keeps.
        ({"grid": "256x32", "antennas": 4, "gain_model": "rayleigh", "max_taps": 12,
          "iterations": 8}, None, 1e-4),
        ({"grid": "31x37", "antennas": 2, "nu_p": 30e3, "iterations": 6}, None, 1e-4),
        ({"grid": "1024x32", "antennas": 4, "iterations": 6}, None, 5e-3),
        # Edges of each antenna's samples between blocks, as in every division.
        ({"grid": "256x32", "antennas": 2, "iterations": 8}, (1, 2, 3), 1e-4),
        ({"grid": "256x32", "antennas": 4, "iterations": 8}, (3, 4, 2), 2e-2),
        # Warps that wait for the neighbours' edges beside some that do not.
        ({"grid": "4096x12", "antennas": 2, "iterations": 4}, (11, 4, 3), 2e-2),
    ],
)  # fmt: skip
def test_kernels_agree_with_numpy(
    changes: dict[str, Any], division: tuple[int, int, int] | None, close: float, tmp_path: Path
) -> None:
    link = Settings(**changes)
    geometry = Geometry(link, *division) if division else Geometry.of(link)
    frame = source.simulate(link, 15.0, 3, 0)
    samples = frame.samples * np.array([1.0, 3.0, 0.2, 1.0], np.float32)[: link.antennas, None]
    samples[0] += source.simulate(replace(link, antennas=1), -100, 1, 0).samples * np.float32(1e-6)
    got = receive(samples, geometry, tmp_path)
    exact = reference.receive(
        samples.astype(np.complex128), link, periods=True, blocks=geometry.blocks
    )
    check_alike(got, exact, frame.bits, 1e-5, close)


@on_cpu
def test_a_dead_antenna_changes_nothing_and_a_spoilt_one_shows(tmp_path: Path) -> None:
    link = Settings(grid="64x32", antennas=2, iterations=8)
    samples = source.simulate(link, 10.0, 3, 0).samples
    folders = [tmp_path / name for name in ("one", "dead", "spoilt")]
    for folder in folders:
        folder.mkdir()
    one = replace(link, antennas=1)
    alone = receive(samples[1].copy(), Geometry.of(one), folders[0])
    # The smallest variance is that of the other one.
    samples[0] = 0
    got = receive(samples, Geometry.of(link), folders[1])
    assert got["taps"].tolist() == [0, alone["taps"]]
    np.testing.assert_allclose(got["symbols"], alone["symbols"], atol=1e-5)
    samples[0, link.pilot_bin[0]] = np.nan
    got = receive(samples, Geometry.of(link), folders[2])
    assert np.isnan(got["variance"]) and np.isnan(got["llr"]).all()


@pytest.mark.parametrize("antennas", [2, 4])
@pytest.mark.parametrize("grid", ["64x32", "1024x32", "4096x32"])
def test_grids_fit_and_compile(grid: str, antennas: int) -> None:
    link = Settings(grid=grid, antennas=antennas)
    geometry = Geometry.of(link)
    assert geometry.shared_bytes <= HOPPER.block_shared
    assert geometry.span * geometry.cluster >= geometry.length
    # A static_assert compares the shared memory with what is counted.
    assert program.images(geometry, "sm_90a").keys() == program.KERNELS.keys()
    assert compile_source(quality.source(link), "quality.cu", "sm_90a")


def test_the_largest_grid_fits_with_two_antennas_but_not_with_four() -> None:
    assert Geometry.of(Settings(grid="16384x32", antennas=2)).cluster == 8
    with pytest.raises(UsageError, match=r"shared memory of sm_90; use fewer .* antennas"):
        Geometry.of(Settings(grid="16384x32", antennas=4))
