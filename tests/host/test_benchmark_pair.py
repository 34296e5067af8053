"""The benchmark judge-pair: what it says of gathered drafts whose course is known."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from parse_models import save

from benchmarks.judge import pair, plot, predict, replay, transfer
from benchmarks.judge.units import BATCHES
from parse_runtime.text.tokenizer import Tokenizer
from parse_runtime.weights.source import open_model

PASSES = {
    **{f"{model} prefill": 10.0 for model in ("target", "draft")},
    **{f"target step {b}": 100.0 for b in BATCHES},
    **{f"draft step {b}": 10.0 for b in BATCHES},
    **{f"chains of {d} {b}": 120.0 for d in (8, 16) for b in BATCHES},
    "verify 16 judged, evidence of half": 100.0, "verify 64 judged, evidence of half": 200.0,
    "verify 16, evidence of half": 60.0, "verify 64, evidence of half": 90.0,
}  # fmt: skip


def line(tokenizer: Tokenizer, number: int) -> dict[str, Any]:
    """Every other draft is what the target writes; the others are unlike it from the start on."""
    own, other = tokenizer.encode("it is just 20 and 7"), tokenizer.encode("it is only 20 and 3")
    alike = number % 2 == 0
    drafted = own if alike else other
    count = len(own)
    noise = (number % 7) / 10
    unlike = [a != b for a, b in zip(own, drafted, strict=True)]
    cut = 16
    whole = {"tokens": own, "ended": True, "drafted_alike": "1" * count}
    behind = {"0": whole}
    if not alike:
        behind[str(cut)] = {**whole, "tokens": own[cut:], "drafted_alike": "1" * (count - cut)}
    return {
        "prompt": f"{number}?", "answer": "7", "draft": {"tokens": drafted, "ended": True},
        "cuts": [cut, count], "log_odds": [noise, 1 - noise], "choices": [*own, 0],
        "log_likelihood": [-5.0 + noise if u else -0.1 for u in unlike],
        "entropy": [noise] * count, "draft_log_likelihood": [-0.2] * count, "behind": behind,
    }  # fmt: skip


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("pair")
    save(folder / "model", "llama", num_hidden_layers=1)
    tokenizer = open_model(str(folder / "model")).text.tokenizer
    drafts, units, output = (folder / name for name in ("d.jsonl", "u.json", "out.json"))
    drafts.write_text("".join(json.dumps(line(tokenizer, n)) + "\n" for n in range(60)))
    units.write_text(json.dumps({"milliseconds": PASSES, "evidence_cost": 1.1}))
    about = {"target": "a", "draft": "b", "device": "CPU", "date": "2026-11-29"}
    output.write_text(json.dumps(about))
    loose = folder / "fly.jsonl"
    own = tokenizer.encode("it is just 20 and 7")
    said = (
        {"prompt": f"{n}?", "answer": "7", "tokens": own[: 19 - n], "passes": 3} for n in (0, 1)
    )
    loose.write_text("".join(json.dumps(one) + "\n" for one in said))
    with pytest.MonkeyPatch.context() as patch:
        # Each share has fits of its own, over again.
        patch.setattr(pair, "SHARES", (0.05, 0.4))
        patch.setattr(replay, "REPEATS", 1)
        pair.run(drafts, str(folder / "model"), units, loose, output)
    transfer.run(drafts, drafts, str(folder / "model"), units, "same", output)
    plot.run(output, folder / "none", folder / "plot.svg")
    assert "<!-- a with b" in (folder / "plot.svg").read_text()
    return dict(json.loads(output.read_text()))


def test_each_method_has_its_answers_and_its_speed(result: dict[str, Any]) -> None:
    assert result["target"] == "a" and result["questions"] == 60
    assert result["drafts"]["share"] == 0.5 and result["target_right"]["share"] == 1.0
    assert result["auc"]["drafts"] == 1.0 and result["accuracy_lost_points"] == 0.0
    assert result["auc_of_each"]["draft_disagreements"]["drafts"] == 0.0
    assert result["evidence_cost"] == 1.1
    rows = result["methods"]["batch_1"]
    loose = rows["target + FLy"]
    assert loose["accuracy"]["hits"] == 1 and loose["lost_points"]["value"] == 50
    assert loose["target_passes"] == 6 and loose["gain"] > 1
    assert {name: row["accuracy"]["share"] for name, row in rows.items()} == {
        "target": 1.0, "draft": 0.5, "target + draft speculation": 1.0, "target + FLy": 0.5,
        "parse, judge alone": 0.5, "parse": 1.0, "parse + draft speculation": 1.0,
        "parse, no question": 1.0, "parse, no question + draft speculation": 1.0,
    }  # fmt: skip
    assert rows["target"]["gain"] == 1.0 < rows["target + draft speculation"]["gain"]
    assert rows["draft"]["gain"] > rows["parse, judge alone"]["gain"] > rows["parse"]["gain"] > 1
    assert rows["parse, no question"]["gain"] > rows["parse"]["gain"]
    for part in (result["methods"], *result["predicted"].values()):
        assert all(part[f"batch_{b}"]["target + FLy"]["gain"] > 0 for b in BATCHES)
    kept = [row["gain"] for row in result["by_share_kept"]]
    assert kept == sorted(kept)
    assert result["predicted_gain"].keys() == {"14B", "235B"}
    for place in result["predicted"].values():
        assert place["batch_1"]["draft"]["gain"] > place["batch_1"]["target"]["gain"] == 1.0


def test_whole_drafts_of_others_are_judged_by_the_fit(result: dict[str, Any]) -> None:
    found = result["same"]
    assert found["questions"] == found["ended"]["hits"] == 60
    assert found["auc"]["value"] == found["auc_fitted_to_both"]["value"] == 1.0
    assert found["right_kept"]["share"] == 1.0 and found["wrong_kept"]["hits"] <= 1
    assert found["methods"]["batch_1"]["parse"]["accuracy"]["hits"] >= 59


def test_a_course_costs_its_passes() -> None:
    costs = predict.Costs(1.0, 2.0, 10.0, 0.5, 20.0, verify=3.0, verify_row=0.1, suffix=4, depth=2)
    alone = replay.Course(True, 9, passes=8)
    assert costs.seconds(alone, False) == 1 + 8 * 10
    assert costs.seconds(alone, True) == 1 + 2 + 8 * (20 + 2 * 0.5)
    drafted = replay.Course(True, 9, drafted=6, cuts=2, kept=4, passes=3)
    assert costs.seconds(drafted, False) == pytest.approx(1 + 2 + 3 + 3 + 14 * 0.1 + 30)
    assert costs.rate([alone, drafted]) == pytest.approx(18 / (81 + 40.4))
    assert costs.seconds(replay.Course(True, 6, 6, target=False), False) == 2 + 3
