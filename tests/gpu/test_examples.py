"""The examples with `--target cuda`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from foundryrt import Session

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


def test_script(tmp_path: Path) -> None:
    """The script's own forecast, and that of its graph over the same values."""
    bundle = tmp_path / "wave.fdy"
    script = EXAMPLES / "script.py"
    run("foundryc", "capture", script, "cuda", "-o", bundle, "--target", "cuda")
    assert "step(streams=4)" in run("foundryrt", "run", bundle)
    with Session.open(bundle) as session:
        assert not session.read("hidden").any()
        step = session.graph("step", streams=4)
        for value in np.sin(np.linspace(0, 20, 50, dtype=np.float32)):
            step.write("value", np.full((4, 1), value))
            step.launch()
        assert np.allclose(step.read("next"), -0.1, atol=0.05)


def test_streaming() -> None:
    pytest.importorskip("zmq", reason="pip install 'foundry-graphs[stream]'")
    example_runs.streamed("cuda", 100)


def test_serving() -> None:
    pytest.importorskip("openai", reason="pip install openai")
    out = run(sys.executable, EXAMPLES / "serving.py", "--target", "cuda")
    assert example_runs.SUM in out
