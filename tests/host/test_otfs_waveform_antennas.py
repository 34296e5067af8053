"""Waveforms of two antennas from the sender to the bundle's receiver, as processes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from otfs_pipeline import send
from otfs_pipeline.frames.slots import Slots, slot_memory
from otfs_pipeline.front.synchronize import FrontEnd
from otfs_pipeline.waveform.impair import Impairments
from otfs_pipeline.waveform.simulate import Simulation
from tests.host.front_on_cpu import FrontOnCpu
from tests.host.otfs_link import LINK, save_bundle
from tests.host.standing_by import commands_handed_over
from tests.host.test_otfs_stream import SENDER, finish, run, start

TWO = replace(LINK, antennas=2)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bundle(tmp_path_factory.mktemp("otfs") / "otfs.fdy", TWO)


@pytest.fixture(scope="module", autouse=True)
def standby(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with commands_handed_over(tmp_path_factory.mktemp("standby"), bundle):
        yield


def sent(bundle: Path, *more: str) -> list[str]:
    return ["--raw", "--bundle", str(bundle), "--frames", "6", "--snr", "25", "--carrier", "800",
            *more]  # fmt: skip


@pytest.mark.parametrize("more", [[], ["--oversampling", "3", "--datatype", "ci16_le"]])
def test_a_recording(bundle: Path, tmp_path: Path, more: list[str]) -> None:
    air, log = tmp_path / "air", tmp_path / "log"
    assert send.main(sent(bundle, "--output", str(air), *more)) == 0
    report = run(bundle, "--raw", "--iq", f"{air}.sigmf-meta", "--frame-log", log)
    assert report["frames"] == 6 and report["ber"] < 2e-3
    assert len(report["front_end"]["dc_db"]) == 2 and report["front_end"]["damaged"] == 0
    assert abs(report["front_end"]["carrier_hz"] - 800) < TWO.nu_max


@pytest.mark.parametrize("place", ["--zmq", "--shm"])
def test_messages(bundle: Path, tmp_path: Path, place: str) -> None:
    where = f"ipc://{tmp_path}/link" if place == "--zmq" else str(tmp_path / "ring")
    running = start(bundle, "--raw", place, where, "--lossless", "--idle-timeout", 60)
    subprocess.run([*SENDER, *sent(bundle, place, where)], check=True, timeout=120)
    report = finish(running)
    assert (report["frames"], report["lost"]) == (6, 0) and report["ber"] < 2e-3


def test_bare_samples_are_interleaved(bundle: Path, tmp_path: Path) -> None:
    air = tmp_path / "air"
    assert send.main(sent(bundle, "--output", str(air))) == 0
    raw = tmp_path / "air.raw"
    raw.write_bytes((tmp_path / "air.sigmf-data").read_bytes())
    report = run(bundle, "--raw", "--iq", raw, "--datatype", "cf32_le")
    assert report["frames"] == 6


def test_udp_is_refused(bundle: Path) -> None:
    error = run(bundle, "--raw", "--udp", "127.0.0.1:4991", code=2)["error"]
    assert "--udp brings the waveform of one antenna, and the bundle combines 2" in error
    assert send.main(sent(bundle, "--udp", "127.0.0.1:4991")) == 2


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on this machine")
def test_slots_and_what_the_graph_says_of_them(tmp_path: Path) -> None:
    made = Simulation(TWO, 5, impairments=Impairments(25.0, 3.3, 900.0, dc=0.2, iq_db=2.0))
    stream = np.concatenate(list(made.pieces(range(2))))
    host = FrontEnd(TWO)
    expected = [*host.push(stream), *host.finish()]
    memory = slot_memory(TWO, 2, lambda size: np.zeros(size, np.uint8))
    slots, front = Slots(TWO, memory), FrontOnCpu(TWO, tmp_path)
    frames = []
    for slot in [*slots.push(stream), *slots.finish()]:
        assert any(np.may_share_memory(slot.samples, one) for one in memory)
        front.burst(slot.inputs["waveform"], bool(slot.inputs["doubtful"]))
        frames.append(slot.told({"front": front.arrays["front"]}))
    told = [frame for frame in frames if frame]
    assert [frame.carrier_hz for frame in told] == [
        pytest.approx(one.carrier_hz, abs=0.02) for one in expected
    ]
    got, report = slots.report(), host.report()
    for name in ("frames", "locks", "jumps", "damaged"):
        assert got[name] == report[name]
    for name in ("dc_db", "image_db"):
        assert got[name] == pytest.approx(report[name], abs=1e-3) and len(got[name]) == 2
