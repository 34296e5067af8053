"""The receiver's benchmark: a run of some grids keeps the others' results."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import typer

from benchmarks.receiver import frames, raw, waveform
from benchmarks.receiver.timeline import STEPS, Timeline
from otfs_pipeline.frames.source import UNKNOWN, Frame
from tests.unit.test_otfs_slots import WaveformSession
from tests.unit.test_otfs_source import LINK


@pytest.fixture
def benchmark_otfs(monkeypatch):
    """The benchmark. Bundles, device and measurements are made up."""
    monkeypatch.setattr(frames, "_capture", lambda folder, grid, *options: grid)
    monkeypatch.setattr(frames, "_device", lambda: "a GPU")
    monkeypatch.setattr(frames, "_python", lambda module, *_: {module: "new"})
    return frames.run


def test_other_grids_and_keys_are_kept(benchmark_otfs, tmp_path, capsys) -> None:
    output = tmp_path / "otfs.json"
    old = [{"grid": "16384x32", "on_time": 0.5}, {"grid": "1024x32", "on_time": 1.0}]
    output.write_text(json.dumps({"grids": old, "notes": "kept"}))
    benchmark_otfs(grids="16384x32,2048x32", output=output)
    got = json.loads(output.read_text())
    assert got == json.loads(capsys.readouterr().out)
    assert got["notes"] == "kept"
    assert got["coded"].keys() == {"date", "device", "stage_us", "benchmarks.receiver.waveform"}
    assert [one["grid"] for one in got["grids"]] == ["16384x32", "1024x32", "2048x32"]
    assert got["grids"][1] == old[1]
    for one in got["grids"][::2]:
        assert one["device"] == "a GPU"
        assert one["date"].endswith("+00:00")
        assert {"benchmarks.receiver.replay", "benchmarks.receiver.stages"} < one.keys()
        assert "on_time" not in one


def test_unknown_grids_are_refused(benchmark_otfs, tmp_path) -> None:
    with pytest.raises(typer.BadParameter, match="no '7x32'"):
        benchmark_otfs(grids="16384x32,7x32", output=tmp_path / "otfs.json")
    assert not (tmp_path / "otfs.json").exists()


def test_the_front_end_keeps_the_other_figures_of_a_link(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(raw, "IDEAL_SNRS", (15.0, 20.0, 25.0, 45.0))
    monkeypatch.setattr(raw, "PULSES", ({},))
    monkeypatch.setattr(raw, "GAPS", (500,))
    monkeypatch.setattr(raw, "GRIDS", ("64x32",))
    monkeypatch.setattr(raw, "TRACKED", ("64x32",))
    output = tmp_path / "otfs_link.json"
    output.write_text(json.dumps({"decoder_loss_db": 0.1, "raw_loss_db": 9.0}))
    raw.run(frames=4, positions=2, output=output)
    got = json.loads(output.read_text())
    assert got["decoder_loss_db"] == 0.1
    assert got["frames_lost_after_gap"] in (0, 1, 2) and got["raw_loss_db"] < 1
    (link,) = got["raw"]
    for one in link["points"]:
        assert 0 < one["ber"] < 2 * one["ber_ideal"]
        assert 0.5 < one["ber_known_timing"] / one["ber"] < 4


class _Pipeline:
    """Its launches take 10 ms, the device's clock is 5 s behind the host's."""

    depth = 7

    def submit(self, *_: object) -> None:
        time.sleep(0.01)
        self.at = time.perf_counter() - 5

    def wait(self, slot: int) -> dict:
        time.sleep(0.02)
        return {}

    def moments(self, slot: int) -> tuple[float, float, float]:
        return self.at + 0.001, self.at + 0.015, self.at + 0.02


def test_the_steps_of_a_slot_add_up_to_its_latency() -> None:
    timeline = Timeline(_Pipeline())
    assert timeline.depth == 7
    came = time.perf_counter() - np.array([0.1, 0.3])
    latency = []
    for ready in came:
        timeline.wait_until(ready)
        (frame,) = timeline.read([Frame(np.zeros(1), UNKNOWN, ready)])
        timeline.submit(3, {"waveform": frame.samples})
        outputs = timeline.wait(3)
        latency.append((time.perf_counter() - frame.ready) * 1e3)
        timeline.take(frame, outputs)
    report = timeline.report()
    assert report is not None and set(report["steps"]) == set(STEPS)
    worst, other = report["worst"]
    assert (worst["slot"], other["slot"]) == (1, 0) and worst["late"] == "arrival"
    for one in (worst, other):
        assert one["latency"] == pytest.approx(latency[one["slot"]], abs=5)
        assert sum(one[step] for step in STEPS) == pytest.approx(one["latency"])
        assert one["sent"] + one["computed"] + one["copied"] + one["seen"] >= 19
    assert worst["arrival"] >= 300 > other["arrival"] >= 100 and worst["launched"] >= 10
    assert sum(report["late"].values()) == 1


class _CodedSession(WaveformSession):
    """It claims to decode."""

    def __init__(self) -> None:
        super().__init__()
        self.results["payload"] = self.results["block_errors"] = np.zeros(1, np.uint8)

    def read(self, name: str) -> np.ndarray:
        return np.ones(8)

    def write(self, name: str, values: np.ndarray) -> None:
        assert not values.any()


def test_the_waveform_at_the_pace_of_the_air_says_where_time_went() -> None:
    link, frames, pool = LINK, 12, 2
    air = waveform.waveform(link, pool, 25.0)
    found = waveform.paced(_CodedSession(), frames, air, pool)
    # Numpy is slower than the air: some slots are dropped.
    assert found["frames"] + found["dropped"] == frames > found["dropped"]
    assert found["damaged"] == 0
    assert found["latency_ms"]["max"] >= found["timeline"]["worst"][0]["latency"] > 0
    assert found["machine"]["slots"] > 0 < found["machine"]["p50"]
