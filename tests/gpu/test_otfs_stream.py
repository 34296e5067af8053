"""The stream on a GPU: copies beside launches, the same LLRs in any depth, live sources, pacing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from otfs_pipeline.frames import source, writing
from otfs_pipeline.link import frame, reference
from otfs_pipeline.receiver.kernels.geometry import Geometry
from otfs_pipeline.settings import Settings

sys.path.insert(0, str(Path(__file__).parent))
from processes import CAPTURE, RUN, finish, start

LINK = Settings(grid="1024x32")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("otfs") / "otfs.fdy"
    finish(start("-c", CAPTURE, "capture", "--target", "cuda", "--workload",
                 "otfs", "--grid", LINK.grid, "--no-relocate", "-o", path))  # fmt: skip
    return path


def run(bundle: Path, *options: object) -> dict:
    return json.loads(finish(start("-c", RUN, "run", bundle, "--json", *options)))


def test_any_depth_and_any_process_gives_the_same_llrs(bundle: Path, tmp_path: Path) -> None:
    for depth in (1, 4):
        report = run(bundle, "--frames", 40, "--pool", 7, "--depth", depth, "--llr-out",
                     tmp_path / f"llr{depth}")  # fmt: skip
        assert report["frames"] == report["ber_frames"] == 40
    one, four = ((tmp_path / f"llr{depth}").read_bytes() for depth in (1, 4))
    assert one == four
    llr = np.frombuffer(one, "<f4").reshape(40, -1)
    np.testing.assert_array_equal(llr[:7], llr[7:14])
    blocks = Geometry.of(LINK).blocks
    for index in (0, 6):
        sent = source.simulate(LINK, 20.0, 0, index)
        exact = reference.receive(sent.samples.astype(np.complex128), LINK, blocks=blocks)
        assert np.mean((llr[index] < 0) != exact.bits.ravel()) < 1e-3


def test_a_broken_frame_leaves_the_next_one_as_it_is(bundle: Path, tmp_path: Path) -> None:
    frames = list(source.synthetic(LINK, 20.0, 0, 2))
    broken = frames[0].samples.copy()
    broken[17] = np.nan
    samples = np.concatenate([frames[0].samples, broken, frames[1].samples, frames[0].samples[:9]])
    samples.tofile(tmp_path / "link.raw")
    report = run(bundle, "--iq", tmp_path / "link.raw", "--datatype", "cf32_le", "--llr-out",
                 tmp_path / "llr")  # fmt: skip
    assert report["frames"] == 2
    assert report["skipped"] == {"wrong_length": 1, "not_finite": 1}
    run(bundle, "--frames", 2, "--llr-out", tmp_path / "whole")
    assert (tmp_path / "llr").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("datatype", ["cf32_le", "ci16_le"])
def test_a_recording(bundle: Path, tmp_path: Path, datatype: str) -> None:
    frames = list(source.synthetic(LINK, 25.0, 3, 6))
    writing.write_recording(str(tmp_path / "link"), frames, LINK, 3, datatype)
    report = run(bundle, "--iq", tmp_path / "link.sigmf-meta", "--bits-out", tmp_path / "bits")
    assert report["frames"] == report["ber_frames"] == 6
    assert report["ber"] < 5e-3
    assert (tmp_path / "bits").stat().st_size == 6 * frame.payload_bits(LINK) // 8


@pytest.mark.parametrize("kind", ["zmq", "shm"])
def test_a_live_source(bundle: Path, tmp_path: Path, kind: str) -> None:
    place = f"ipc://{tmp_path}/link" if kind == "zmq" else "/dev/shm/foundry-otfs-test"
    receiver = start("-c", RUN, "run", bundle, "--json", f"--{kind}", place, "--lossless")
    code = "import sys; from otfs_pipeline.send import main; sys.exit(main())"
    finish(start("-c", code, f"--{kind}", place, "--bundle", bundle, "--frames", 200, "--pool", 5))
    report = json.loads(finish(receiver))
    assert report["frames"] == report["ber_frames"] == 200
    assert (report["dropped"], report["lost"], report["malformed"]) == (0, 0, 0)


@pytest.mark.alone
def test_paced_frames_are_all_accounted_for(bundle: Path) -> None:
    report = run(bundle, "--frames", 1000, "--pool", 4, "--pace")
    assert report["frames"] + report["dropped"] == 1000
    assert report["late_source"] == 0
    late = report["deadline_misses"] + report["dropped"]
    assert report["on_time"] == pytest.approx(1 - late / 1000)
