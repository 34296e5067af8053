"""The receiver on the GPU: its kernels against numpy, and its bundle in fresh processes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from otfs_pipeline.frames import source
from otfs_pipeline.link import reference
from otfs_pipeline.settings import Settings

LINK = Settings(grid="1024x32")
CASES = [
    "qpsk", "small", "odd", "64qam", "sinc", "three", "wide", "halves", "edges", "barrier", "large"
]  # fmt: skip


@pytest.fixture(scope="module")
def report(run):
    return run("otfs_kernels.py", *CASES)


@pytest.mark.parametrize("case", CASES)
def test_kernels_agree_with_numpy(report, case):
    _check(report[case])


def _check(got):
    # A coefficient that is held over several samples is off by up to Geometry's HELD_TURN.
    exact = got["each"] == 1
    assert got["taps"] == 0
    assert abs(got["noise"]) < 1e-4
    assert abs(got["mu"]) < 2e-3
    assert got["symbols"] < (2e-3 if exact else 2e-2)
    assert got["bits"] < 1e-3
    assert got["signs"]
    assert got["repeats"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("otfs") / "otfs.fdy"
    code = "import sys; from foundryc.cli import main; sys.argv[0] = 'foundryc'; main()"
    command = ["capture", "--workload", "otfs", "--target", "cuda", "--grid", LINK.grid]
    subprocess.run([sys.executable, "-c", code, *command, "-o", str(path)], check=True)
    return path


def test_fresh_processes_give_the_same_llrs(bundle, run, tmp_path):
    frames = [source.simulate(LINK, 20.0, 9, index) for index in range(4)]
    np.save(tmp_path / "frames.npy", np.stack([frame.samples for frame in frames]))
    for name in ("a", "b"):
        got = run("replay_otfs.py", bundle, tmp_path / "frames.npy", tmp_path / f"{name}.npy")
        assert got == {"torch": False}
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    bits = np.load(tmp_path / "a.npy.bits.npy")
    for frame, decided in zip(frames, bits, strict=True):
        exact = reference.receive(frame.samples.astype(np.complex128), LINK, periods=True)
        assert np.mean(decided != exact.bits) < 1e-3
