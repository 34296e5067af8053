"""The examples with `--target cuda`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "host"))
import example_runs
from example_runs import EXAMPLES, capture_and_run, run


def test_workload(tmp_path: Path) -> None:
    example_runs.check_nearest(example_runs.nearest(tmp_path, "cuda"))


def test_vision(tmp_path: Path) -> None:
    assert "batch 8: scores as torch's" in capture_and_run("vision.py", tmp_path, "cuda")


def test_decoder(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="pip install transformers")
    assert "all as transformers decodes them" in capture_and_run("decoder.py", tmp_path, "cuda")


def test_streaming() -> None:
    pytest.importorskip("zmq", reason="pip install 'foundry-graphs[stream]'")
    example_runs.streamed("cuda", 100)


def test_serving() -> None:
    pytest.importorskip("openai", reason="pip install openai")
    out = run(sys.executable, EXAMPLES / "serving.py", "--target", "cuda")
    assert example_runs.SUM in out
