"""Verdicts of a pair of models, and PARSE by them beside its rivals, in one engine.

Each part is written as it comes. The pair that was trained to judge is evaluated by the benchmark
arith.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from typer import Option

from benchmarks.arith.evaluate import Target, device
from benchmarks.judge import verdicts
from benchmarks.judge.bundles import Pair, opened, real
from benchmarks.judge.methods import Setup, measure
from benchmarks.report import RESULTS, chosen, say, write_results
from foundryrt.progress import progress_bar
from parse_runtime.calibration import questions as shipped
from parse_runtime.calibration.answers import Question
from parse_runtime.calibration.calibrate import calibrated
from parse_runtime.calibration.collect import Samples, collect
from parse_runtime.engine.protocols import Verification
from parse_runtime.graphs.loading import Loaded
from parse_runtime.signature.evidence import LOG_ODDS

PARTS = ("verdicts", "prompts", "methods", "cost")
PROMPTS = {
    "default": None,
    "right": "Is your answer right?",
    "correct?": "Correct?",
    "none": "",
}
"""Questions to the judge that are compared."""
_LAUNCHES = 15
_COLLECTED = 4
"""Answers at a time, at least, while drafts are collected and labelled."""


def run(
    model: Annotated[str, Option(help="Target, as of foundryc capture.")],
    draft: Annotated[str, Option(help="Its draft model.")],
    eagle: Annotated[str, Option(help="Folder of an EAGLE-3 head of the target.")] = "",
    dtype: Annotated[str, Option(help="float32 or bfloat16.")] = "float32",
    target: Annotated[Target, Option(help="Where the engine runs.")] = Target.HOST,
    questions: Annotated[int, Option(help="Questions that every method answers.")] = 200,
    calibration: Annotated[int, Option(help="Other questions, that verdicts are fitted to.")] = 100,
    length: Annotated[int, Option(help="Longest answer in tokens.")] = 96,
    concurrent: Annotated[str, Option(help="Answers at a time, such as 1,4,16.")] = "1",
    parts: Annotated[str, Option(help="What is measured, comma-separated.")] = ",".join(PARTS),
    output: Annotated[
        Path, Option("--output", "-o", metavar="FILE", help="Results, as JSON.")
    ] = RESULTS / "parse_judge.json",
) -> None:  # fmt: skip
    """Measure verdicts of a pair, and its accuracy and throughput by every method."""
    wanted = chosen(parts, PARTS, "--parts")
    at_a_time = [int(part) for part in concurrent.split(",")]
    pair = real(model, draft, eagle, dtype, length)
    slots = max(*at_a_time, _COLLECTED)
    found: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "device": device(target),
        "dtype": dtype, "target": Path(pair.model).name, "draft": Path(pair.draft).name,
        "questions": questions, "calibrated_with": calibration,
    }  # fmt: skip
    file = json.loads(output.read_text()) if output.exists() else {}

    def save(part: dict[str, Any]) -> None:
        found.update(part)
        write_results(output, {**file, **found})

    asked, others = shipped.make(questions, 0), shipped.make(calibration, 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with opened(pair, "plain", folder, target, slots) as loaded:
            say("captured")
            fitting = _samples(loaded, others, length, None)
            fit = calibrated(fitting, loaded.rules, "", verdicts.WRONG_KEPT)
            save({"threshold": fit.threshold, "weights": fit.weights, "offset": fit.offset})
            if "verdicts" in wanted:
                evaluated = _samples(loaded, asked, length, None)
                save(verdicts.report(Samples([*fitting.drafts, *evaluated.drafts])))
            if "prompts" in wanted:
                save({"prompts": _prompts(loaded, others, length)})
        if "methods" in wanted:
            setup = Setup(pair, folder, target, slots, asked, length, fit)
            methods: dict[str, dict[str, Any]] = {}
            for count, method, row in measure(setup, at_a_time):
                rows = methods.setdefault(f"batch_{count}", {})
                rows[method] = row
                base = rows["target"]
                row["gain"] = base["seconds_per_answer"] / row["seconds_per_answer"]
                save({"methods": methods, **_totals(methods)})
        if "cost" in wanted:
            save({"evidence_cost": _cost(pair, folder, target, slots)})


def _samples(loaded: Loaded, questions: list[Question], length: int, prompt: str | None) -> Samples:
    rules = loaded.rules if prompt is None else loaded.rules.changed({"judge_prompt": prompt})
    found = collect(loaded, questions, rules, length, progress_bar)
    say(f"{len(found.drafts)} drafts, {int(found.right[found.whole].sum())} right")
    return found


def _prompts(loaded: Loaded, questions: list[Question], length: int) -> dict[str, Any]:
    """By question to the judge: its tokens and the areas by all evidence, and by the judge."""
    rows = {}
    for name, prompt in PROMPTS.items():
        samples = _samples(loaded, questions, length, prompt)
        text = loaded.rules.judge_prompt if prompt is None else prompt
        suffix = text and loaded.prompts.target.chat.judge_suffix("", text)
        tokens = len(loaded.prompts.target.tokenizer.encode(suffix)) if suffix else 0
        rows[name] = {"tokens": tokens, **verdicts.by_evidence(samples, judge=bool(text))}
    return rows


def _totals(methods: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the table of targets asks of a real pair, at the fewest answers at a time."""
    rows = next(iter(methods.values()))
    if "parse" not in rows:
        return {}
    lost = rows["target"]["accuracy"]["share"] - rows["parse"]["accuracy"]["share"]
    return {"gain": rows["parse"]["gain"], "accuracy_lost_points": round(100 * lost, 3)}


def _cost(pair: Pair, folder: Path, target: str, slots: int) -> float:
    """Time of the largest verify pass with evidence over that without; in turn, not at once."""
    seconds = {}
    for variant in ("no-evidence", "plain"):
        with opened(pair, variant, folder, target, slots) as loaded:
            seconds[variant] = _seconds(loaded, variant == "plain")
    return seconds["plain"] / seconds["no-evidence"]


def _seconds(loaded: Loaded, evidence: bool) -> float:
    rules = loaded.rules
    suffix = loaded.prompts.target.chat.judge_suffix("", rules.judge_prompt)
    asked = loaded.prompts.target.tokenizer.encode(suffix)
    rows, most = list(loaded.target._verify)[-1]  # type: ignore[attr-defined]
    tokens = min(rows - most * len(asked), most * rules.stride)
    cuts = np.linspace(tokens / most, tokens, most).astype(int)
    drafted = np.random.default_rng(0).integers(1, 200, tokens + 1).tolist()
    wanted = Verification(
        drafted, 3, [int(cut) + 4 for cut in cuts], asked,
        score=LOG_ODDS if evidence else None, drafted=4,
    )  # fmt: skip
    times = []
    for _ in range(_LAUNCHES):
        begin = time.perf_counter()
        loaded.target.verify(0, wanted)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)
