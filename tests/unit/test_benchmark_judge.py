"""The benchmark parse-judge: its report of labelled drafts, and what is drawn of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.judge import plot, verdicts
from benchmarks.judge.bundles import Pair
from benchmarks.judge.methods import METHODS
from parse_runtime.calibration.collect import Draft, Samples
from parse_runtime.signature.evidence import EVIDENCE


@pytest.fixture(scope="module")
def samples() -> Samples:
    """Disagreements tell right drafts from wrong ones, the judge does not."""
    g = np.random.default_rng(2)
    drafts = []
    for number in range(80):
        right = number % 2 == 0
        evidence = g.normal(size=(2, len(EVIDENCE))).astype(np.float32)
        evidence[:, EVIDENCE.index("draft_disagreements")] += 0 if right else 3
        drafts.append(Draft([8, 14], evidence, {8: right, 14: right}, True))
    return Samples(drafts)


def test_the_report_says_which_evidence_tells(samples: Samples, tmp_path: Path) -> None:
    found = verdicts.report(samples)
    by = {name: areas["drafts"]["value"] for name, areas in found["auc_by_evidence"].items()}
    assert by["disagreements alone"] > 0.95 and by["judge alone"] < 0.7
    assert found["auc"]["drafts"] == by["all"] > 0.9
    assert found["drafts"]["share"] == 0.5 and found["target_right"]["share"] == 1.0
    assert found["kept_at_5_percent"] > 0.5
    assert [row["questions"] for row in found["auc_by_questions"]] == [20, 30, 40, 60]
    assert found["calibration_questions"] is None
    rows = [{"questions": q, "auc": a} for q, a in ((20, 0.7), (40, 0.79), (150, 0.8))]
    assert verdicts.needed(rows) == 40
    counts = found["histograms"]
    assert sum(counts["right"]) == sum(counts["wrong"]) == 40
    assert sum(counts["wrong"][:5]) > 30 < sum(counts["right"][5:])
    about = {"target": "a", "draft": "b", "device": "CPU", "date": "2026-11-29"}
    row = {"gain": 1.5, "accuracy": {"share": 0.5, "low": 0.4, "high": 0.6}}
    methods = {"batch_1": {name: row for name in METHODS}}
    trained = {"batch_1": {"methods": methods["batch_1"]}}
    file, control = tmp_path / "judge.json", tmp_path / "arith.json"
    file.write_text(json.dumps({**about, **found, "methods": methods}))
    control.write_text(json.dumps({**trained, "calibration": {**about, **found}}))
    for other, count in ((control, 1), (tmp_path / "none", 0)):
        plot.run(file, other, tmp_path / "judge.svg")
        drawn = (tmp_path / "judge.svg").read_text()
        assert drawn.startswith("<?xml") and drawn.count("<!-- a with b") == 1
        assert drawn.count("<!-- trained target with trained draft") == count
        assert drawn.count("<!-- throughput over the target alone, 1 at a time") == 1 + count


def test_each_method_has_a_bundle_of_the_pair() -> None:
    unlike = Pair("t", "d", "", {}, same_tokens=False)
    assert {v for v, _, _ in METHODS.values() if unlike.has(v)} == {"plain", "draft"}
    whole = Pair("t", "d", "e", {})
    for variant in {v for v, _, _ in METHODS.values()}:
        assert whole.has(variant) and whole.variant(variant)["model"]
    fly = whole.variant("fly")
    assert fly["speculate"] == "draft" and fly["fly-window"] == 6 and fly["eagle-depth"] > 6
    assert whole.variant("draft")["model"] == "d" and "draft" not in whole.variant("draft")
