"""The LDPC decoder on the GPU: its kernels, and a coded receiver's bundle in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

CASES = ["small", "repeated", "graph 2", "graph 1", "version 3", "all rows", "operating point"]
COMMAND = "import sys; from {0}.cli import main; sys.argv[0] = '{0}'; main()"


@pytest.fixture(scope="module")
def report(run):
    return run("otfs_decoder.py")


@pytest.mark.parametrize("case", CASES)
def test_the_kernels_decide_as_torch(report, case):
    got = report[case]
    assert got["payload"] == 0, got
    assert got["as_torch"] and got["frame_error"] == 0, got
    assert got["repeats"], got
    assert (got["spoilt_blocks"], got["spoilt_frame"]) == ([0], 1), got


def test_a_coded_bundle_delivers_its_frames(tmp_path):
    bundle = tmp_path / "coded.fdy"
    capture = ["capture", "--workload", "otfs", "--target", "cuda", "--grid", "1024x32",
               "--no-relocate", "--code-rate", "0.5", "-o", str(bundle)]  # fmt: skip
    subprocess.run([sys.executable, "-c", COMMAND.format("foundryc"), *capture], check=True)
    run = ["run", str(bundle), "--frames", "20", "--snr", "18", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", COMMAND.format("foundryrt"), *run], check=True, capture_output=True
    )
    found = json.loads(done.stdout)
    assert (found["frames"], found["ber"], found["coding"]["block_errors"]) == (20, 0, 0)
    assert found["coding"]["uncoded_ber"] > 1e-3


@pytest.mark.parametrize("link", ["small", "64qam", "large"])
def test_the_kernels_say_how_frames_were(quality, link):
    for name, (kernels, host) in quality[link].items():
        assert kernels == pytest.approx(host, rel=1e-4), name
    assert quality[link]["clipped"][1] >= 6


@pytest.fixture(scope="module")
def quality(run):
    return run("otfs_quality.py")
