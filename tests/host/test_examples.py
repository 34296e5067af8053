"""Every example runs on a CPU, as its first lines say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import example_runs
from example_runs import EXAMPLES, capture_and_run, run


def test_workload(tmp_path: Path) -> None:
    example_runs.check_nearest(example_runs.nearest(tmp_path, "host"))
    code = (EXAMPLES / "workload" / "nearest.py").read_text().splitlines()
    assert sum(bool(line.strip()) for line in code) <= 60


def test_vision(tmp_path: Path) -> None:
    out = capture_and_run("vision.py", tmp_path, "host")
    assert "batch 1: scores as torch's" in out and "batch 8: scores as torch's" in out


def test_decoder(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="pip install transformers")
    assert "all as transformers decodes them" in capture_and_run("decoder.py", tmp_path, "host")


def test_streaming() -> None:
    pytest.importorskip("zmq", reason="pip install 'foundry-graphs[stream]'")
    example_runs.streamed("host", 4)


def test_serving() -> None:
    pytest.importorskip("openai", reason="pip install openai")
    assert example_runs.SUM in run(sys.executable, EXAMPLES / "serving.py")


def test_every_example_is_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.iterdir():
        if path.name not in ("README.md", "__pycache__"):
            assert f"]({path.name}" in listed, path.name
