"""`foundryrt run --live` as a process: what its page, lines and metrics say of the run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from otfs_pipeline import send
from otfs_pipeline.frames import source, writing
from otfs_pipeline.link import qam, reference
from tests.host.otfs_link import LINK, save_bundle
from tests.host.otfs_live import COMMAND, LiveRun
from tests.unit.test_otfs_live import values
from tests.unit.test_otfs_live_server import Events

POOL = 8
# More than any test waits for.
ENDLESS = ("--frames", 10_000_000, "--pool", POOL, "--snr", 25, "--seed", 7)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bundle(tmp_path_factory.mktemp("otfs") / "otfs.fdy")


def lines(url: str) -> list[dict]:
    with urllib.request.urlopen(url + "frames", timeout=20) as answer:
        return [json.loads(line) for line in answer.read().splitlines()]


def test_it_shows_the_run_and_ctrl_c_ends_both(bundle: Path) -> None:
    with LiveRun(bundle, *ENDLESS) as run:
        events = iter(Events(run.url))
        for shown in events:
            if shown["constellation"] and shown["totals"]["frames"] > 50:
                break
        with urllib.request.urlopen(run.url + "metrics") as answer:
            counted = values(answer.read())
        report = run.interrupt()
        *_, last = events
    assert last["ended"] and report["interrupted"]
    # On a loaded machine none may have been received since.
    assert last["totals"]["frames"] == report["frames"] >= counted["otfs_frames_total", ""] > 50
    assert last["totals"]["good"] == report["conditions"]["good"]
    assert last["totals"]["bit_errors"] / last["totals"]["bits"] == report["ber"]
    assert last["totals"]["missed"] == report["deadline_misses"]
    assert last["latency"]["max"] == report["latency_ms"]["max"]
    assert last["latency"]["p50"] == pytest.approx(report["latency_ms"]["p50"], rel=0.02)
    assert last["totals"]["mbps"] == pytest.approx(report["payload_mbps"])


def test_of_several_antennas_each_is_shown(tmp_path: Path) -> None:
    link = replace(LINK, antennas=2)
    bundle = save_bundle(tmp_path / "two.fdy", link)
    with LiveRun(bundle, *ENDLESS) as run:
        for shown in Events(run.url):
            if shown["channel"]:
                break
        # The pool's frames come again and again.
        entries = {entry["frame"] % POOL: entry for entry in lines(run.url)}
        with urllib.request.urlopen(run.url + "metrics") as answer:
            counted = values(answer.read())
        run.interrupt()
    noise = entries[shown["constellation"]["frame"] % POOL]["noise_variance"]
    assert len(set(noise)) == shown["link"]["antennas"] == 2
    expected = 10 * np.log10(link.tap_sigmas**2 * np.array(noise) / link.pilot_amplitude**2)
    assert shown["channel"]["threshold_db"] == pytest.approx(expected)
    assert [len(set(shown[plot]["db"])) for plot in ("channel", "spectrum")] == [2, 2]
    for name in ("noise_variance", "channel_gain_db", "taps", "peak", "burst_db"):
        assert {label for key, label in counted if key == f"otfs_{name}"} == {"1", "2"}


def test_a_line_says_how_its_frame_was(bundle: Path, tmp_path: Path) -> None:
    frames = list(source.synthetic(LINK, 25.0, 7, 3))
    writing.write_recording(str(tmp_path / "link"), frames, LINK, 7)
    log = tmp_path / "log"
    with LiveRun(bundle, "--iq", tmp_path / "link.sigmf-meta", "--frame-log", log) as run:
        report = run.report()
    points = qam.modulate(np.array(list(np.ndindex(*(2,) * LINK.bits_per_symbol))), LINK.modulation)
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert report["frames"] == len(entries) == 3
    for sent, entry in zip(frames, entries, strict=True):
        exact = reference.receive(sent.samples.astype(np.complex128), LINK, preconditioned=True)
        distance = np.abs(exact.symbols[:, None] - points).min(axis=1)
        rms = 100 * np.sqrt(np.mean(distance**2))
        assert entry["evm_percent"] == pytest.approx(rms, rel=1e-3)
        assert entry["bit_errors"] == np.count_nonzero(exact.bits.ravel() != sent.bits)
    total = sum(entry["bit_errors"] for entry in entries)
    assert report["ber"] == total / (3 * frames[0].bits.size)


def test_a_waveform_has_carrier_timing_and_its_own_spectrum(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "air"
    send.main(["--raw", "--bundle", str(bundle), "--output", str(path), "--frames", "400",
               "--snr", "25", "--carrier", "900", "--datatype", "ci16_le"])  # fmt: skip
    with LiveRun(bundle, "--iq", f"{path}.sigmf-meta", "--raw", "--pace") as run:
        for shown in Events(run.url):
            if shown["spectrum"] and shown["frames"]:
                break
        entries = lines(run.url)
        run.interrupt()
    assert shown["link"]["raw"] and shown["spectrum"]["rate_hz"] == 2 * LINK.bandwidth
    assert shown["totals"]["front_end"]["locks"] == 1
    assert all(
        abs(entry["carrier_hz"] - 900) < LINK.nu_max + LINK.nu_p / LINK.n for entry in entries
    )
    assert all(abs(entry["timing_us"]) < 1e6 * LINK.delay_spread for entry in entries)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--live", "{port}"), "Address already in use"),
        (("--live", "port"), "write [HOST:]PORT"),
    ],
)
def test_an_address_that_cannot_be_had(bundle: Path, options: tuple[str, ...], words: str) -> None:
    with LiveRun(bundle, *ENDLESS) as run:
        port = run.url.split(":")[2][:-1]
        given = [word.format(port=port) for word in options]
        command = [sys.executable, "-c", COMMAND, "run", bundle, *given]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: --live") and words in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_page_goes_with_a_run_that_fails(bundle: Path, tmp_path: Path) -> None:
    np.full(LINK.q, np.nan, np.complex64).tofile(tmp_path / "bad.raw")
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "run", bundle, "--live", "--iq", tmp_path / "bad.raw",
         "--datatype", "cf32_le"], capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1 and "no frame could be received" in done.stderr
    assert "Traceback" not in done.stderr and time.monotonic() - began < 60
