"""A bundle for several architectures: what is noted for them, and the command that makes it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from foundryrt.bundle.builds import architectures
from foundryrt.bundle.reader import Bundle
from otfs_pipeline.frames import source
from otfs_pipeline.settings import Settings

LINK = Settings(grid="1024x32", code_rate=0.5, iterations=12)
COMMAND = "import sys; from {0}.cli import main; sys.argv[0] = '{0}'; main()"


@pytest.fixture(scope="module")
def noted(run, tmp_path_factory):
    """A folder with builds.fdy, and what was found of it."""
    folder = tmp_path_factory.mktemp("builds")
    return folder, run("otfs_builds.py", folder)


def test_launches_that_are_noted_are_those_that_are_captured(noted):
    _, found = noted
    assert found["launches"] and found["names"] and found["shared"]


@pytest.mark.xfail(reason="on an H200 captured nodes have more in their skeletons: not looked into")
def test_nothing_else_of_the_nodes_differs(noted):
    assert noted[1]["differ"] == []


def test_a_build_without_clusters_runs(run, noted, tmp_path):
    folder, _ = noted
    np.save(tmp_path / "samples.npy", source.simulate(LINK, 20.0, 9, 0).samples)
    same = run("replay_builds.py", folder / "builds.fdy", tmp_path / "samples.npy")
    # Without clusters sums may be of other parts, in another order: decisions are the same.
    assert same["payload"] and same["frame_error"] and same["taps"], same


def test_one_capture_makes_a_bundle_for_all_of_them(tmp_path):
    path = tmp_path / "otfs.fdy"
    names = "sm_80,sm_86,sm_87,sm_89,sm_90,sm_100,sm_110,sm_120"
    command = ["capture", "--workload", "otfs", "--grid", "1024x32", "--target", "cuda"]
    run = [sys.executable, "-c"]
    subprocess.run(
        [*run, COMMAND.format("foundryc"), *command, "--arch", names, "-o", str(path)], check=True
    )
    with Bundle.open(path) as bundle:
        bundle.verify()
        assert set(names.split(",")) <= set(architectures(bundle.manifest))
    report = ["run", str(path), "--frames", "20", "--json"]
    done = subprocess.run(
        [*run, COMMAND.format("foundryrt"), *report], check=True, capture_output=True
    )
    assert json.loads(done.stdout)["frames"] == 20
