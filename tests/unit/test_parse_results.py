"""parse.json is what its two sources say, and says what was never measured."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.parse.merge import RESULTS, merged


def test_parse_json_is_put_together_from_the_results_beside_it() -> None:
    assert json.loads((RESULTS / "parse.json").read_text()) == merged(RESULTS)


def test_without_results_every_figure_is_null(tmp_path: Path) -> None:
    found = merged(tmp_path)
    assert {figure["value"] for figure in found.values()} == {None}
    assert {figure["not_run"] for figure in found.values()} == {"never run"}


def test_a_part_keeps_its_own_device_and_date(tmp_path: Path) -> None:
    about = {"device": "a GPU", "date": "2026-11-25"}
    share = {"share": 1.0}
    methods = {name: {"gain": 2.0, "accuracy": share} for name in ("target", "parse")}
    parts = {"batch_1": {**about, "methods": methods}, "verdicts": {"device": "CPU"}}
    (tmp_path / "parse_arith.json").write_text(json.dumps(parts))
    found = merged(tmp_path)
    gain = {"value": 2.0, **about, "accuracy": share, "accuracy_target": share}
    assert found["throughput_gain"] == gain
    assert found["throughput_gain_eagle3"]["not_run"] == "left out of the run of that date"
    assert found["verdict_max_abs_diff"]["value"] is None
