"""The kernels for GPUs without clusters, run on the CPU: the same bits as those with clusters."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from otfs_pipeline.frames import source
from otfs_pipeline.link import reference
from otfs_pipeline.receiver.kernels.geometry import Geometry
from otfs_pipeline.receiver.kernels.platforms import HOPPER, PLATFORMS
from otfs_pipeline.settings import Settings
from tests.host.kernels_on_cpu import receive

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on this machine")
WITHOUT = replace(HOPPER, clusters=False)


@pytest.mark.parametrize(
    ("changes", "division"),
    [
        ({"grid": "64x32"}, (1, 4, 1)),
        ({"grid": "256x32", "nu_max": 100.0, "doppler_reach": 4}, (3, 3, 2)),
        ({"grid": "256x32"}, (1, 2, 3)),
        ({"grid": "256x32"}, (1, 1, 7)),
        # As those of 16384x32: some warps wait for the neighbours' edges, some do not.
        ({"grid": "4096x12"}, (11, 4, 3)),
        # Edges of each antenna's samples.
        ({"grid": "256x32", "antennas": 4, "gain_model": "rayleigh"}, (3, 4, 2)),
        ({"grid": "4096x12", "antennas": 2, "iterations": 4}, (11, 4, 3)),
    ],
)
def test_a_division_gives_the_bits_that_it_gives_with_clusters(
    changes: dict[str, Any], division: tuple[int, int, int], tmp_path: Path
) -> None:
    link = Settings(**{"iterations": 8} | changes)
    samples = source.simulate(link, 20.0, 4, 0).samples
    got = []
    for name, platform in (("with", HOPPER), ("without", WITHOUT)):
        folder = tmp_path / name
        folder.mkdir()
        got.append(receive(samples, Geometry(link, *division, platform), folder))
    assert got[0].keys() - {"mailbox"} == got[1].keys() - {"mailbox"}
    for name in ("groups", "equalized", "moments", "symbols", "llr", "bits", "mu", "variance"):
        one, other = (each[name].tobytes() for each in got)
        assert one == other, name


@pytest.mark.parametrize("architecture", ["sm_80", "sm_89"])
def test_coefficients_with_fewer_nodes_are_as_good(architecture: str, tmp_path: Path) -> None:
    # More delays than Geometry has to save memory for, so that it does here.
    link = Settings(grid="4096x12", iterations=12)
    frame = source.simulate(link, 20.0, 5, 0)
    geometry = replace(Geometry.of(link, PLATFORMS[architecture]), stretch=4)
    got = receive(frame.samples, geometry, tmp_path)
    exact = reference.receive(frame.samples.astype(np.complex128), link, periods=True)
    np.testing.assert_allclose(got["symbols"], exact.symbols, atol=2e-2)
    assert np.mean(got["bits"] != exact.bits) < 1e-3
