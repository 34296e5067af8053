"""The targets and what was measured: verdicts, what is unmeasured, damaged files."""

from __future__ import annotations

import json
import re
import sys

import pytest

from benchmarks import summary
from benchmarks.__main__ import main
from benchmarks.report import RESULTS
from benchmarks.targets import REPORTED, TABLES, TARGETS, Target

GPU = {"device": "a GPU", "date": "2026-11-25T13:01:14+00:00"}
KEYS = ["area", "target", "must", "aim", "measured", "verdict", "device", "date", "file"]


@pytest.fixture
def command(monkeypatch, capsys):
    """Exit status, stdout and stderr of the summary with some arguments."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["benchmarks", "summary", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return call


@pytest.fixture
def table(tmp_path, command):
    """Rows by target, of results given as file name -> JSON."""

    def call(**files):
        for name, report in files.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(report))
        status, out, _ = command("--results", str(tmp_path), "--json")
        assert status == 0
        return {one["target"]: one for one in json.loads(out)}

    return call


def test_the_bounds_themselves_count(table) -> None:
    eager = {"first_launch_ratio": 2.0, "us_per_node": 8.01, "weights_ratio": 0.9,
             "replay_ratio": 1.02, "identical": True}  # fmt: skip
    rows = table(cold_start={**GPU, "eager": eager, "compile": {"identical": False}})
    verdicts = {name.removesuffix(", eager"): row["verdict"] for name, row in rows.items()}
    assert verdicts["first launch / floor"] == "met"
    assert verdicts["time a node"] == "missed"
    assert verdicts["weights / pinned copy"] == "aim"
    assert verdicts["replay / torch's replay"] == "met"
    assert verdicts["identical outputs"] == "met"
    assert rows["identical outputs, compile"]["verdict"] == "missed"
    assert rows["time a node, eager"]["date"] == "2026-11-25"


@pytest.mark.parametrize(
    ("target", "verdicts"),
    [
        ({"must": 2.0, "aim": 1.0},
         {0.9: "aim", 1.0: "aim", 1.5: "met", 2.0: "met", 2.1: "missed"}),
        ({"must": 2.0}, {1.0: "met", 2.0: "met", 2.1: "missed"}),
        ({"must": 0}, {0: "met", 1: "missed"}),
        ({"must": 0.6, "aim": 0.9, "higher": True},
         {0.95: "aim", 0.9: "aim", 0.7: "met", 0.6: "met", 0.5: "missed"}),
        ({"must": True}, {True: "met", False: "missed"}),
        ({"must": REPORTED}, {17.0: "met"}),
        ({"must": REPORTED, "aim": 1.2, "higher": True}, {1.3: "aim", 1.1: "met"}),
        ({"must": REPORTED, "aim": 4}, {3.9: "aim", 4.1: "met"}),
    ],
)  # fmt: skip
def test_verdicts_by_direction(target, verdicts) -> None:
    made = Target("cache", "a figure", "a.json", "part/value", **target)
    for measured, verdict in verdicts.items():
        row = summary.row(made, {"part": {"value": measured}, **GPU})
        assert (row.measured, row.verdict, row.device) == (measured, verdict, "a GPU")
    row = summary.row(made, {"part": {}, **GPU})
    assert (row.measured, row.verdict, row.device, row.date) == (None, "unmeasured", None, None)


def test_what_was_not_measured_is_unmeasured(table) -> None:
    cold = {**GPU, "compile": {"replay_ratio": None}}
    decoding = {"value": None, "not_run": "cut off", **GPU}
    rows = table(cold_start=cold, parse={"decode_over_bandwidth": decoding})
    assert {
        (row["verdict"], row["measured"], row["device"], row["date"]) for row in rows.values()
    } == {("unmeasured", None, None, None)}


@pytest.mark.parametrize(("count", "device", "verdicts"), [
    (200, "a GPU", ("aim", "missed")), (99, "a GPU", ("aim", "unmeasured")),
    (200, "CPU", ("unmeasured", "unmeasured")),
])  # fmt: skip
def test_gains_count_with_their_accuracy_and_on_a_gpu(table, count, device, verdicts) -> None:
    right = {"share": 0.97, "count": count}, {"share": 0.985, "count": count}
    gain = {"value": 4.5, "device": device, "accuracy": right[0], "accuracy_target": right[1]}
    rows = table(parse={"throughput_gain": gain})
    found = rows["trained pair: gain"], rows["trained pair: gain, accuracy lost"]
    assert tuple(row["verdict"] for row in found) == verdicts


def test_a_cpu_counts_where_the_target_says_so(table) -> None:
    rows = table(otfs_cpu={"device": "CPU", "date": "2026-11-28", "frame_over_deadline": 0.7})
    assert rows["CPU, 1024x32: frame / deadline"]["verdict"] == "met"


def test_the_loss_is_the_worse_grids_with_the_same_iterations(table) -> None:
    point = {"grid": "16384x32", **GPU, "cg_iterations": 20, "frames": 2000, "on_time": 1.0}
    losses = [{"grid": grid, "snr_loss_db": {"cg20": loss, "cg8": 3.0}}
              for grid, loss in (("31x37", 0.01), ("64x32", 0.19), ("256x32", 0.5))]  # fmt: skip
    rows = table(otfs={"grids": [{"grid": "1024x32", "device": "CPU"}, point], "snr_loss": losses})
    assert rows["SNR loss against LMMSE"]["measured"] == 0.19
    assert rows["SNR loss against LMMSE"]["verdict"] == "met"
    assert rows["frames at frame pace"]["verdict"] == "missed"
    assert rows["on time"]["verdict"] == "aim"
    assert (rows["on time"]["device"], rows["on time"]["date"]) == ("a GPU", "2026-11-25")


def methods(gain: float, head: float, lost: float = 0.0) -> dict[str, object]:
    figures = {"target": (1.0, 0.0), "target+eagle3": (2.0, 0.0), "parse": (gain, lost),
               "parse+eagle3": (head, 0.0)}  # fmt: skip
    return {
        name: {"gain": value, "accuracy": {"share": 0.96 - less}}
        for name, (value, less) in figures.items()
    }


@pytest.mark.parametrize(("gains", "verdict"), [
    ((4.3, 4.5), "met"), ((4.2, 4.5), "missed"), ((4.3, 4.5, 0.02), "missed"),
])  # fmt: skip
def test_serving_gains_count_within_a_point_of_accuracy(table, gains, verdict) -> None:
    part = {**GPU, "methods": methods(*gains)}
    rows = table(parse_arith={"batch_1": part, "batch_16": part})
    assert rows["trained pair: serving's gains within a point of accuracy"]["verdict"] == verdict
    assert rows["trained pair, 16 at a time: best of ours / EAGLE-3 alone"]["verdict"] == "aim"


def test_damaged_files_are_named(table, command, tmp_path) -> None:
    (tmp_path / "otfs.json").write_text("{")
    status, out, error = command("--results", str(tmp_path))
    assert (status, out) == (2, "")
    # The box around an error breaks long paths.
    assert "otfs.json" in re.sub(r"[│\s]", "", error)


def test_every_row_of_the_tables_is_there() -> None:
    rows = {name: len(table) for name, table in TABLES.items()}
    assert rows == {
        "cold start": 12, "cache": 2, "PARSE": 5, "receiver in real time": 6, "placement": 9,
        "tensor parallelism": 10, "eight GPUs": 6, "judging": 8, "serving": 10,
        "receiver of a radio": 7,
    }  # fmt: skip
    assert all(row for table in TABLES.values() for row in table)
    names = [(target.area, target.name) for target in TARGETS]
    assert len(set(names)) == len(names)


def test_an_aim_lies_beyond_its_must() -> None:
    for target in TARGETS:
        if target.aim is not None and isinstance(target.must, float | int):
            assert (target.aim > target.must) == target.higher, target


def test_the_repositorys_results_are_read(command) -> None:
    status, out, _ = command("--json")
    rows = json.loads(out)
    assert status == 0
    assert all(list(row) == KEYS for row in rows)
    present = {path.name for path in RESULTS.glob("*.json")}
    old = [row for row in rows if row["area"] in ("start", "cache")]
    assert all(row["measured"] is not None for row in old)
    for row in rows:
        unmeasured = row["verdict"] == "unmeasured"
        assert unmeasured == (row["measured"] is None) == (row["device"] is None)
        assert unmeasured or (row["file"] in present and row["device"] and len(row["date"]) == 10)
    status, out, _ = command()
    assert status == 0
    assert "SNR loss" in out and "serve.json" in out
    measured = {row["file"] for row in rows if row["measured"] is not None}
    said = command("--measured")[1]
    assert all((row["file"] in said) == (row["file"] in measured) for row in rows)


def test_the_readme_says_what_each_benchmark_writes() -> None:
    text = (RESULTS.parent / "README.md").read_text()
    assert all(f"`{target.file}`" in text for target in TARGETS if (RESULTS / target.file).exists())


def test_a_gain_by_acceptance_is_that_of_one_draft(table) -> None:
    row = {"batch": 32, "eagle3_profile": "none", "scheme": "parse", "acceptance": 0.75}
    gains = [{**row, "question": 0, "rounds": 2, "gain": 9.0},
             {**row, "question": 0, "rounds": 1, "gain": 1.7},
             {**row, "question": 32, "gain": 1.4},
             {**row, "eagle3_profile": "3 tokens a pass", "question": 0, "gain": 1.9}]  # fmt: skip
    rows = table(parse_geometry={"gain": {**GPU, "gain_by_acceptance": gains}})
    named = "14B, acceptance 0.75, batch 32: gain"
    ends = {"": 1.4, " without a question": 1.7, " with EAGLE-3, without a question": 1.9}
    assert {end: rows[named + end]["measured"] for end in ends} == ends
