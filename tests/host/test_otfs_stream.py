"""`foundryrt run` as a process: files, broken frames, live sources, Ctrl-C, and the exact LLRs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sigmf
import zmq

from otfs_pipeline.frames import source, writing
from otfs_pipeline.link import frame, reference
from tests.host.otfs_link import LINK, save_bundle
from tests.host.standing_by import COMMAND, commands_handed_over

SENDER = [sys.executable, "-m", "otfs_pipeline.send"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bundle(tmp_path_factory.mktemp("otfs") / "otfs.fdy")


@pytest.fixture(scope="module", autouse=True)
def standby(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with commands_handed_over(tmp_path_factory.mktemp("standby"), bundle):
        yield


def start(bundle: Path, *options: object, standby: bool = True) -> subprocess.Popen[str]:
    command = [*COMMAND, "run", str(bundle), "--json", *map(str, options)]
    command += ["--standby"] if standby else []
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finish(process: subprocess.Popen[str], code: int = 0) -> dict:
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    return json.loads(out) if code == 0 else {"error": err}


def run(bundle: Path, *options: object, code: int = 0) -> dict:
    return finish(start(bundle, *options), code)


def test_files_hold_every_frames_results(bundle: Path, tmp_path: Path) -> None:
    bits_out, llr_out = tmp_path / "bits", tmp_path / "llr"
    report = run(bundle, "--frames", 3, "--snr", 25, "--seed", 7, "--bits-out", bits_out,
                 "--llr-out", llr_out)  # fmt: skip
    count = frame.payload_bits(LINK)
    assert report["frames"] == 3 and report["interrupted"] is False
    llr = np.fromfile(llr_out, "<f4").reshape(3, count)
    bits = np.unpackbits(np.fromfile(bits_out, np.uint8)).reshape(3, -1)[:, :count]
    np.testing.assert_array_equal(bits, llr < 0)
    for index in range(3):
        sent = source.simulate(LINK, 25.0, 7, index)
        exact = reference.receive(sent.samples.astype(np.complex128), LINK, preconditioned=True)
        np.testing.assert_allclose(
            llr[index], exact.llr.ravel(), atol=1e-3 * np.abs(exact.llr).max()
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bits", "llr"]


def test_a_broken_frame_leaves_its_neighbours_as_they_are(bundle: Path, tmp_path: Path) -> None:
    frames = list(source.synthetic(LINK, 25.0, 7, 4))
    writing.write_recording(str(tmp_path / "whole"), frames, LINK, 7)
    samples = np.fromfile(tmp_path / "whole.sigmf-data", np.complex64)
    samples[LINK.q + 3] = np.nan
    samples[2 * LINK.q + 9] = np.inf
    samples[:-7].tofile(tmp_path / "broken.raw")
    whole = run(bundle, "--iq", tmp_path / "whole.sigmf-data", "--llr-out", tmp_path / "a")
    broken = run(bundle, "--iq", tmp_path / "broken.raw", "--datatype", "cf32_le", "--llr-out",
                 tmp_path / "b")  # fmt: skip
    assert whole["frames"] == 4
    assert broken["frames"] == 1
    assert broken["skipped"] == {"wrong_length": 1, "not_finite": 2}
    after = np.full(LINK.q, np.nan, np.complex64)
    np.concatenate([after, frames[3].samples]).tofile(tmp_path / "after.raw")
    run(bundle, "--iq", tmp_path / "after.raw", "--datatype", "cf32_le", "--llr-out",
        tmp_path / "c")  # fmt: skip
    each = frame.payload_bits(LINK)
    expected = np.fromfile(tmp_path / "a", np.float32).reshape(4, each)
    np.testing.assert_array_equal(np.fromfile(tmp_path / "b", np.float32), expected[0])
    np.testing.assert_array_equal(np.fromfile(tmp_path / "c", np.float32), expected[3])


@pytest.mark.parametrize("kind", ["zmq", "shm"])
def test_a_lossless_live_source(bundle: Path, tmp_path: Path, kind: str) -> None:
    place = f"ipc://{tmp_path}/link" if kind == "zmq" else str(tmp_path / "ring")
    ring = ["--slots", "4"] if kind == "shm" else []
    receiver = start(bundle, f"--{kind}", place, "--lossless", "--queue", 2)
    sent = subprocess.run(
        [*SENDER, f"--{kind}", place, "--bundle", bundle, "--frames", "30", "--pool", "3",
         "--snr", "25", "--json", *ring], capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert sent.returncode == 0, sent.stderr
    report = finish(receiver)
    assert json.loads(sent.stdout)["frames"] == report["frames"] == report["ber_frames"] == 30
    assert (report["dropped"], report["lost"], report["malformed"]) == (0, 0, 0)
    assert 0 < report["ber"] < 2e-2


def test_bare_samples_and_an_archive_give_what_a_recording_gives(
    bundle: Path, tmp_path: Path
) -> None:
    frames = list(source.synthetic(LINK, 25.0, 7, 4))
    writing.write_recording(str(tmp_path / "link"), frames, LINK, 7)
    sigmf.fromfile(str(tmp_path / "link.sigmf-meta")).archive(str(tmp_path / "link.sigmf"))
    endpoint, bare = f"ipc://{tmp_path}/link", tmp_path / "bare"
    receiver = start(bundle, "--zmq", endpoint, "--bare", "push", "--lossless",
                     "--max-frames", 4, "--bits-out", bare)  # fmt: skip
    samples = (tmp_path / "link.sigmf-data").read_bytes()
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.bind(endpoint)
        for begin in range(0, len(samples), 5001):
            socket.send(samples[begin : begin + 5001])
        report = finish(receiver)
    assert (report["frames"], report["malformed"], report["captures"]) == (4, 0, None)
    archived = run(bundle, "--iq", tmp_path / "link.sigmf", "--bits-out", tmp_path / "archived")
    assert (archived["frames"], archived["ber_frames"]) == (4, 4)
    assert [c["samples"] for c in archived["captures"]] == [4 * LINK.q]
    assert bare.read_bytes() == (tmp_path / "archived").read_bytes()


def test_a_waveform_is_received_through_the_commands(bundle: Path, tmp_path: Path) -> None:
    air = tmp_path / "air"
    sent = subprocess.run(
        [*SENDER, "--raw", "--output", air, "--bundle", bundle, "--frames", "6", "--snr", "25",
         "--carrier", "1500", "--oversampling", "3", "--datatype", "ci16_le", "--json"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert sent.returncode == 0, sent.stderr
    rates = json.loads(sent.stdout)
    report = run(bundle, "--iq", f"{air}.sigmf-meta", "--raw", "--bits-out", tmp_path / "bits")
    assert report["frames"] == report["ber_frames"] == 6 and report["ber"] < 1e-2
    assert report["air_payload_mbps"] == pytest.approx(rates["air_payload_mbps"])
    assert report["front_end"]["locks"] == 1
    assert abs(report["front_end"]["carrier_hz"] - 1500) < LINK.nu_max
    assert (tmp_path / "bits").stat().st_size == 6 * frame.payload_bits(LINK) // 8


def test_a_source_that_overruns_loses_frames_and_goes_on(bundle: Path) -> None:
    report = run(bundle, "--frames", 300, "--pool", 2, "--pace", "--queue", 2)
    assert report["paced"] is True
    assert report["frames"] + report["dropped"] == 300
    assert report["frames"] > 0
    # A CPU this small cannot keep up with a frame every 2.1 ms, nor would that be a failure.
    late = report["deadline_misses"] + report["dropped"]
    assert report["on_time"] == pytest.approx(1 - late / 300)


def start_writing(bundle: Path, bits: Path) -> subprocess.Popen[str]:
    """A run of many frames, in a process of its own, that has begun to write its file."""
    options = ("--frames", 1_000_000, "--pool", 2, "--bits-out", bits)
    process = start(bundle, *options, standby=False)
    deadline = time.monotonic() + 120
    while not any(p.stat().st_size for p in bits.parent.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return process


def test_ctrl_c_gives_the_report_and_whole_files(bundle: Path, tmp_path: Path) -> None:
    bits = tmp_path / "bits"
    process = start_writing(bundle, bits)
    assert not bits.exists()
    process.send_signal(signal.SIGINT)
    report = finish(process)
    assert report["interrupted"] is True and report["frames"] > 0
    assert bits.stat().st_size == report["frames"] * frame.payload_bits(LINK) // 8
    assert [p.name for p in tmp_path.iterdir()] == ["bits"]


def test_a_killed_run_leaves_no_file_that_looks_finished(bundle: Path, tmp_path: Path) -> None:
    bits = tmp_path / "bits"
    process = start_writing(bundle, bits)
    process.kill()
    process.communicate()
    assert not bits.exists()


def test_options_that_do_not_go_together(bundle: Path) -> None:
    for options, reason in (
        (("--zmq", "ipc://x", "--shm", "y"), "one source"),
        (("--zmq", "ipc://x", "--pace"), "pace the sender"),
        (("--lossless",), "--lossless needs"),
        (("--max-frames", "3"), "--frames counts"),
        (("--bits-out", "/no/such/folder/bits"), "no such folder"),
        (("--channel", "tdl-a"), "vehicular-a, eva"),
        (("--bits-out", "x", "--llr-out", "x"), "are one file"),
        (("--bare", "push"), "--bare needs"),
        (("--depth", "0"), "--depth 0"),
    ):
        assert reason in run(bundle, *options, code=2)["error"]
