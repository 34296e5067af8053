"""The front end on the GPU: its kernels, and a waveform through a bundle in a fresh process."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from otfs_pipeline import send
from otfs_pipeline.settings import Settings

sys.path.insert(0, str(Path(__file__).parent))
from processes import CAPTURE, RUN, finish, start

LINK = Settings(grid="1024x32", code_rate=0.5)


@pytest.fixture(scope="module")
def report(run):
    return run("otfs_front.py")


@pytest.mark.parametrize(
    "link",
    ["small", "odd", "two roll-offs", "sinc", "spread", "prefix", "antennas", "spread to 4",
     "middle", "large", "large spread"],
)  # fmt: skip
def test_the_kernels_find_what_numpy_finds(report, link):
    got = report[link]
    assert got["frames"] == [3, 3], got
    assert got["timing"] == 0 and got["carrier_hz"] < 0.1, got
    # Both cut the tails of a sinc.
    assert got["samples"] < (1e-3 if link == "sinc" else 1e-5), got
    assert got["bits"] < (3e-2 if link == "sinc" else 3e-3) * got["of"], got
    assert got["repeats"], got


@pytest.mark.parametrize(
    ("pieces", "kind"),
    [
        ("file", []),
        ("live", []),
        ("file", ["--pilot", "spread"]),
        ("file", ["--waveform", "cp"]),
        ("live", ["--antennas", "2"]),
    ],
    ids=["file", "live", "spread", "prefix", "antennas"],
)
def test_a_waveform_in_one_graph_a_frame(tmp_path, pieces, kind):
    bundle, air = tmp_path / "otfs.fdy", tmp_path / "air"
    finish(start("-c", CAPTURE, "capture", "--target", "cuda", "--workload", "otfs", "--grid",
                 LINK.grid, "--code-rate", "0.5", *kind, "--no-relocate", "-o",
                 bundle))  # fmt: skip
    sent = ["--raw", "--bundle", str(bundle), "--frames", "20", "--snr", "18", "--carrier", "1500"]
    if pieces == "file":
        assert send.main([*sent, "--output", str(air)]) == 0
        done = finish(start("-c", RUN, "run", bundle, "--json", "--raw", "--iq",
                            f"{air}.sigmf-meta"))  # fmt: skip
    else:
        place = f"ipc://{tmp_path}/link"
        running = start("-c", RUN, "run", bundle, "--json", "--raw", "--zmq", place, "--lossless")
        assert send.main([*sent, "--zmq", place]) == 0
        done = finish(running)
    found = json.loads(done)
    assert found["front_end"]["in_graph"]
    assert (found["frames"], found["ber"], found["coding"]["block_errors"]) == (20, 0, 0)
    # Two antennas leave few errors.
    assert found["coding"]["uncoded_ber"] > (1e-4 if "--antennas" in kind else 1e-3)
    assert abs(found["front_end"]["carrier_hz"] - 1500) < 815
