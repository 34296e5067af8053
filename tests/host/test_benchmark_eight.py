"""The benchmark of eight GPUs, with a toy model and two ranks on the CPU."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from benchmarks.parallel import eight
from benchmarks.parallel.steps import eight_capture, eight_run
from benchmarks.parallel.steps.eight_sizes import TINY
from foundryrt import Session
from foundryrt.ranks.followers import Followers


def test_a_toy_model_tries_every_part(tmp_path: Path) -> None:
    output = tmp_path / "tp8.json"
    eight.run(kinds="fp8", repeats=1, tiny=True, output=output)
    found = json.loads(output.read_text())
    assert set(found) == {
        "capture_fp8", "capture_pair", "start_fp8", "decode_fp8", "killed_fp8", "parse_pair"
    }  # fmt: skip
    assert all(part["torch"] and part["date"] and part["ranks"] == 2 for part in found.values())
    start, decode = found["start_fp8"], found["decode_fp8"]
    assert 0 < start["first_token_ms"] <= start["all_ready_ms"]
    for batch in TINY.batches:
        row = decode[f"batch_{batch}"]
        assert row["tokens_per_second"] == pytest.approx(batch / row["seconds_step"])
        assert row["seconds_device"] > 0
    assert "rank 1 " in found["killed_fp8"]["said"] and found["killed_fp8"]["killed_s"] < 10
    rows = found["parse_pair"]["rows"]
    assert [(row["batch"], row["acceptance"]) for row in rows] == [
        (batch, acceptance) for batch in (1, 2) for acceptance in (-1.0, 0.0, 0.75)
    ]
    for row in rows:
        assert row["tokens_per_second"] > 0 and row["gain"] > 0
        drafted = row["scheme"] == "parse"
        assert (row["seconds"]["draft"] > 0) == (row["seconds"]["verify"] > 0) == drafted


def test_weights_are_those_that_were_asked_for(tmp_path: Path) -> None:
    """The same on every start, none left zero; tokens of other weights are refused."""
    path = tmp_path / "bf16.fdy"
    eight_capture.main("bf16", 2, path, True)
    with (
        Followers.start(path, 2) as followers,
        Session.open(path, followers=followers) as session,
    ):
        with pytest.raises(SystemExit, match=r"do not follow"):
            list(eight_run.decoding(session, TINY))
        eight_run.fill(session, TINY.noise)
        weights = [t for t in session.tensors if t.name.startswith("target.layers.")]
        routers = [session.read(t.name) for t in weights if t.name.endswith("router")]
        assert len(weights) == 18 and len(routers) == 2
        assert all(session.read(t.name).astype(bool).mean() > 0.99 for t in weights)
        assert (routers[0] != routers[1]).mean() > 0.9
        assert [row["batch"] for row in eight_run.decoding(session, TINY)] == [1, 4]


def test_what_fails_costs_no_other_figure(tmp_path: Path, monkeypatch) -> None:
    def step(script: str, kind: Any, *words: Any, **_: Any) -> Any:
        if script != "eight_capture.py":
            return {"killed_s": 1.0}
        if kind == "fp8":
            raise SystemExit("no memory")
        words[1].touch()
        return {"graphs": 1}

    def rows(place: eight.Place, kind: str, limit: float) -> Any:
        place.bundle(kind)
        yield {"fill_s": 1.0}
        yield {"batch": 1, "seconds_step": 0.5}
        raise SystemExit("a rank is lost")

    monkeypatch.setattr(eight, "step", step)
    monkeypatch.setattr(eight, "_rows", rows)
    output = tmp_path / "tp8.json"
    with pytest.raises(SystemExit) as failed:
        eight.run(parts="decode,killed", repeats=1, tiny=True, output=output)
    found = json.loads(output.read_text())
    assert failed.value.code == 1
    assert set(found) == {"capture_bf16", "decode_bf16", "killed_bf16"}
    assert found["decode_bf16"]["batch_1"]["seconds_step"] == 0.5


def test_a_run_that_does_not_end_is_killed(tmp_path: Path, monkeypatch) -> None:
    place = eight.Place(tmp_path, "0,1", 2, True, 1)
    (tmp_path / "bf16.fdy").touch()
    (tmp_path / "eight_run.py").write_text("import time\nprint('{}', flush=True)\ntime.sleep(600)")
    monkeypatch.setattr(eight, "STEPS", tmp_path)
    started: list[subprocess.Popen[str]] = []

    class Popen(subprocess.Popen):
        def __init__(self, *words: Any, **how: Any) -> None:
            super().__init__(*words, **how)
            started.append(self)

    monkeypatch.setattr(eight.subprocess, "Popen", Popen)
    rows = eight._rows(place, "bf16", 2.0)
    assert next(rows) == {}
    with pytest.raises(SystemExit, match=r"not done in 2 s"):
        next(rows)
    assert started[0].poll() is not None


def test_figures_of_toys_do_not_touch_the_results() -> None:
    with pytest.raises(typer.BadParameter, match="mean nothing"):
        eight.run(tiny=True)
