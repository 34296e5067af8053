"""The table of musts: verdicts, what was not measured, damaged files."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import summary

GPU = {"device": "a GPU", "date": "2026-11-25T13:01:14+00:00"}


@pytest.fixture
def table(tmp_path, monkeypatch, capsys):
    """Rows by figure, of results given as file name -> JSON."""

    def call(**files):
        for name, report in files.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(report))
        monkeypatch.setattr(sys, "argv", ["summary", "--results", str(tmp_path), "--json"])
        summary.main()
        return {one["figure"]: one for one in json.loads(capsys.readouterr().out)}

    return call


def test_the_bounds_themselves_count(table) -> None:
    eager = {"first_launch_ratio": 2.0, "us_per_node": 8.01, "weights_ratio": 0.9,
             "replay_ratio": 1.02, "identical": True}  # fmt: skip
    rows = table(cold_start={**GPU, "eager": eager, "compile": {"identical": False}})
    verdicts = {name.removesuffix(", eager"): row["verdict"] for name, row in rows.items()}
    assert verdicts["first launch / floor"] == "met"
    assert verdicts["us a node"] == "missed"
    assert verdicts["weights / pinned copy"] == "aim"
    assert verdicts["replay / torch's replay"] == "met"
    assert verdicts["identical outputs"] == "met"
    assert rows["identical outputs, compile"]["verdict"] == "missed"
    assert rows["us a node, eager"]["date"] == "2026-11-25"


def test_what_was_not_measured_has_no_verdict(table) -> None:
    cold = {**GPU, "compile": {"replay_ratio": None}}
    decoding = {"value": None, "not_run": "cut off", **GPU}
    rows = table(cold_start=cold, parse={"decode_over_bandwidth": decoding})
    assert {(row["verdict"], row["measured"], row["device"]) for row in rows.values()} == {
        ("", None, "")
    }


@pytest.mark.parametrize(("count", "device", "verdicts"), [
    (200, "a GPU", ("aim", "missed")), (99, "a GPU", ("aim", "")), (200, "CPU", ("", "")),
])  # fmt: skip
def test_gains_count_with_their_accuracy_and_on_a_gpu(table, count, device, verdicts) -> None:
    right = {"share": 0.97, "count": count}, {"share": 0.985, "count": count}
    gain = {"value": 4.5, "device": device, "accuracy": right[0], "accuracy_target": right[1]}
    rows = table(parse={"throughput_gain": gain})
    found = rows["throughput_gain"], rows["throughput_gain, accuracy lost"]
    assert tuple(row["verdict"] for row in found) == verdicts


def test_the_loss_is_the_worse_grids_with_the_same_iterations(table) -> None:
    point = {"grid": "16384x32", **GPU, "cg_iterations": 20, "frames": 2000, "on_time": 1.0}
    losses = [{"grid": grid, "snr_loss_db": {"cg20": loss, "cg8": 3.0}}
              for grid, loss in (("31x37", 0.01), ("64x32", 0.19), ("256x32", 0.5))]  # fmt: skip
    rows = table(otfs={"grids": [{"grid": "1024x32", "device": "CPU"}, point], "snr_loss": losses})
    assert rows["SNR loss against LMMSE, dB"]["measured"] == 0.19
    assert rows["SNR loss against LMMSE, dB"]["verdict"] == "met"
    assert rows["frames at frame pace"]["verdict"] == "missed"
    assert rows["on time"]["verdict"] == "aim"
    assert (rows["on time"]["device"], rows["on time"]["date"]) == ("a GPU", "2026-11-25")


def test_damaged_files_are_named(table, tmp_path, capsys) -> None:
    (tmp_path / "otfs.json").write_text("{")
    with pytest.raises(SystemExit) as ended:
        table()
    assert ended.value.code == 2
    assert "otfs.json" in capsys.readouterr().err


def test_the_repositorys_results_are_read(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["summary", "--json"])
    summary.main()
    rows = json.loads(capsys.readouterr().out)
    assert sum(row["measured"] is not None for row in rows) > len(rows) / 2
    monkeypatch.setattr(sys, "argv", ["summary"])
    summary.main()
    assert "SNR loss" in capsys.readouterr().out
