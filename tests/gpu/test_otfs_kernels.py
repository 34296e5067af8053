"""The receiver on the GPU: its kernels against numpy, and its bundle in fresh processes."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from otfs_pipeline.frames import source
from otfs_pipeline.link import reference
from otfs_pipeline.receiver.kernels.geometry import Geometry
from otfs_pipeline.settings import Settings

LINK = Settings(grid="1024x32")
CASES = [
    "qpsk", "small", "preconditioned", "odd", "64qam", "sinc", "three", "wide", "halves", "edges",
    "overlap", "antennas",
    "spread", "spread_antennas", "prefix", "prefix_antennas", "prefix_sinc", "prefix_mailbox",
    "one_block", "mailbox", "mailbox_antennas", "large",
]  # fmt: skip


# Of the frames; every run draws others. A failure names its seed, which OTFS_SEED brings back.
SEED = int(os.environ.get("OTFS_SEED") or np.random.default_rng().integers(1 << 30))


@pytest.fixture(scope="module")
def report(run):
    return run("otfs_kernels.py", SEED, *CASES)


@pytest.mark.parametrize("case", CASES)
def test_kernels_agree_with_numpy(report, case):
    got = report[case]
    said = f"frame of OTFS_SEED={SEED}: {got}"
    assert got["taps"] == 0, said
    assert abs(got["noise"]) < 1e-4, said
    if got["mu_bound"] is None:
        # A coefficient that is held over several samples is off by up to Geometry's HELD_TURN.
        assert abs(got["mu"]) < 2e-3, said
        assert got["symbols"] < 2e-2, said
        assert got["bits"] < 1e-3, said
    else:
        assert abs(got["mu"]) < got["mu_bound"], said
        assert got["equalized"] < got["equalized_bound"], said
        # No bit differs that these errors could not change.
        assert got["clear_bits"] == 0, said
    assert got["signs"], said
    assert got["repeats"], said


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("otfs") / "otfs.fdy"
    code = "import sys; from foundryc.cli import main; sys.argv[0] = 'foundryc'; main()"
    command = ["capture", "--workload", "otfs", "--target", "cuda", "--no-relocate"]
    command += ["--grid", LINK.grid]
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
        exact = reference.receive(
            frame.samples.astype(np.complex128), LINK, periods=True, blocks=Geometry.of(LINK).blocks
        )
        assert np.mean(decided != exact.bits) < 1e-3
