"""A short soak of the server: what `python -m benchmarks serve-soak` does for 20 minutes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="pip install 'foundry-graphs[serve]'")
pytest.importorskip("uvicorn", reason="pip install 'foundry-graphs[serve]'")
pytest.importorskip("transformers", reason="pip install transformers")

from benchmarks.serving import soak


def test_nothing_is_lost_above_capacity_with_a_switch_and_a_restart(tmp_path: Path) -> None:
    output = tmp_path / "soak.json"
    soak.run(minutes=0.04, over=3, switches=1, restarts=1, kinds=12, output=output)
    found = json.loads(output.read_text())
    counts = found["counts"]
    assert counts["faults"] == [] and found["requests_lost"] == 0
    assert counts["right"] > 0 and counts["told"]["429"] > 0
    assert found["requests"] == counts["right"] + counts["left"] + sum(counts["told"].values())
    assert [report["to"] for report in found["switches"]] == ["alike"]
    assert found["usage"][-1]["process"] == 1 and found["usage"][-1]["rss_mb"] > 0
