"""The receiver's benchmark: a run of some grids keeps the others' results."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "otfs.py"


@pytest.fixture
def benchmark_otfs(monkeypatch):
    """The script; benchmarks.otfs is a package. Bundles, device and measurements are made up."""
    spec = importlib.util.spec_from_file_location("benchmark_otfs", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "_capture", lambda grid, bundle: None)
    monkeypatch.setattr(script, "_device", lambda: "a GPU")
    monkeypatch.setattr(script, "_python", lambda module, *_: {module: "new"})
    return script


def test_other_grids_and_keys_are_kept(benchmark_otfs, monkeypatch, tmp_path, capsys) -> None:
    output = tmp_path / "otfs.json"
    old = [{"grid": "16384x32", "on_time": 0.5}, {"grid": "1024x32", "on_time": 1.0}]
    output.write_text(json.dumps({"grids": old, "notes": "kept"}))
    grids = ("16384x32", "2048x32")
    monkeypatch.setattr(sys, "argv", ["otfs", "--grids", *grids, "--output", str(output)])
    benchmark_otfs.main()
    got = json.loads(output.read_text())
    assert got == json.loads(capsys.readouterr().out)
    assert got["notes"] == "kept"
    assert [one["grid"] for one in got["grids"]] == ["16384x32", "1024x32", "2048x32"]
    assert got["grids"][1] == old[1]
    for one in got["grids"][::2]:
        assert one["device"] == "a GPU"
        assert one["date"].endswith("+00:00")
        assert {"benchmarks.otfs.replay", "benchmarks.otfs.stages"} < one.keys()
        assert "on_time" not in one
