"""The Ray Serve deployment of examples/deploy, where Ray is installed: nothing is lost unsaid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.serving import replicas


def test_replicas_come_and_go_and_one_is_killed(tmp_path: Path) -> None:
    """From none to two under load and back, twice; takes about a minute."""
    pytest.importorskip("ray", reason="pip install 'ray[serve]'")
    output = tmp_path / "ray.json"
    replicas.run(requests=60, starts=1, output=output)
    found = json.loads(output.read_text())
    calm, killed = found["surges"]
    assert calm["right"] == calm["requests"] == 60
    assert killed["right"] + killed.get("told", 0) == killed["requests"] == 60
