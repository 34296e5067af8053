"""Verdicts of a pair and what every method makes of them, from drafts that were gathered.

Speeds are the methods' passes times what one takes: as measured on this machine, and as counted
for pairs that are too large for it. They leave out what an engine and waiting for others cost.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from typer import Option

from benchmarks.judge import fly, replay, verdicts
from benchmarks.judge.lines import Line, read, samples
from benchmarks.judge.predict import LARGE, Costs, dense
from benchmarks.judge.replay import Course
from benchmarks.judge.units import BATCHES, costs
from benchmarks.report import RESULTS, say, write_results
from parse_runtime.calibration.answers import gives
from parse_runtime.calibration.calibrate import best
from parse_runtime.calibration.collect import Samples
from parse_runtime.engine.judge import PROMPT, first_failure
from parse_runtime.engine.rules import Rules
from parse_runtime.text.tokenizer import Tokenizer
from parse_runtime.weights.source import open_model

SHARES = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Of wrong drafts that may be kept whole."""
PREDICTED = ("14B", "235B")
"""Targets that are too large for this machine."""
Methods = Mapping[str, list[list[Course]]]
"""Every question's course, once or more."""


def run(
    drafts: Annotated[Path, Option(help="What judge-gather has written.", exists=True)],
    model: Annotated[str, Option(help="The target, for its tokenizer.")],
    units: Annotated[Path, Option(help="What judge-units has written.", exists=True)],
    loose: Annotated[Path | None, Option(help="What judge-fly has written.")] = None,
    output: Annotated[
        Path, Option("--output", "-o", metavar="FILE", help="Results, as JSON.")
    ] = RESULTS / "parse_judge.json",
) -> None:  # fmt: skip
    """Evaluate gathered drafts of a pair; what else is in the results stays."""
    text, lines = open_model(model).text, read(drafts)
    found, measured = samples(lines, text.tokenizer), json.loads(units.read_text())
    suffix = len(text.tokenizer.encode(text.chat.judge_suffix("", PROMPT)))
    # What foundryc calibrate makes of the pair.
    rules = Rules(judge_prompt=best(found, Rules(), "", verdicts.WRONG_KEPT).judge_prompt)
    default = "parse" if rules.judge_prompt else "parse, no question"
    asked = by_method(lines, found, replay.kept_by_fits(found, verdicts.WRONG_KEPT, Rules()))
    methods = {**asked, **_unasked(lines, found)}
    say("fitted")
    places = _places(measured["milliseconds"], suffix, replay.DEPTH)
    own, *others = (gains(methods, each) for each in places)
    for rows in own.values():
        for name, row in rows.items():
            row.update(replay.accuracy(methods[name], found))
    if loose:
        answers = Loose.of(loose, text.tokenizer, lines)
        chains = _places(measured["milliseconds"], suffix, fly.DEPTH)
        for part, here, long in zip((own, *others), places, chains, strict=True):
            for batch in BATCHES:
                gain = answers.gain(methods["target"][0], here[batch], long[batch])
                part[f"batch_{batch}"]["target + FLy"] = {"gain": gain}
        for rows in own.values():
            rows["target + FLy"].update(answers.said(found))
    predicted = dict(zip(PREDICTED, others, strict=True))
    first = own["batch_1"][default]
    result = {
        "questions": len(lines), **verdicts.report(found),
        "ended": verdicts.by_evidence(
            found.some(np.flatnonzero([line["draft"]["ended"] for line in lines]))
        ),
        "units": measured, "methods": own, "default": default, "gain": first["gain"],
        "accuracy_lost_points": first["lost_points"]["value"],
        "predicted": predicted,
        "predicted_gain": {name: each["batch_1"][default]["gain"]
                           for name, each in predicted.items()},
        "evidence_cost": measured["evidence_cost"],
        "by_share_kept": [
            _of_share(share, lines, found, rules, places[0]) for share in SHARES
        ],
    }  # fmt: skip
    file = json.loads(output.read_text()) if output.exists() else {}
    write_results(output, {**file, **result})


def _unasked(lines: Sequence[Line], found: Samples) -> Methods:
    """PARSE by fits that do without the judge."""
    rules = Rules(judge_prompt="")
    kept = replay.kept_by_fits(found, verdicts.WRONG_KEPT, rules)
    return {
        name.replace("parse", "parse, no question"): courses
        for name, courses in by_method(lines, found, kept, asks=False).items()
        if name.startswith("parse") and "alone" not in name
    }


def _of_share(
    share: float, lines: Sequence[Line], found: Samples, rules: Rules, places: Mapping[int, Costs]
) -> dict[str, Any]:
    """PARSE where such a share of the wrong drafts may be kept whole."""
    kept = replay.kept_by_fits(found, share, rules)
    courses = by_method(lines, found, kept, asks=bool(rules.judge_prompt))
    rows = {batch: row["parse"]["gain"] for batch, row in gains(courses, places).items()}
    tokens = sum(course.kept for row in courses["parse"] for course in row)
    drafted = sum(len(line["draft"]["tokens"]) for line in lines) * len(courses["parse"])
    return {
        "share": share, **replay.accuracy(courses["parse"], found), "gain": rows["batch_1"],
        "gains": rows, "tokens_kept": tokens / drafted,
    }  # fmt: skip


def by_method(lines: Sequence[Line], found: Samples, kept: Any, asks: bool = True) -> Methods:
    """`kept` [repeats, drafts]: what stays of each draft by calibrated verdicts.

    `asks`: whether those ask the judge, which alone judges in one method.
    """
    answered = list(zip(lines, found.drafts, strict=True))
    # Log-odds above 0 are verdicts above 0.5.
    judged = np.asarray(
        [[first_failure(d.cuts, d.evidence[:, 0].tolist(), 0.0) for d in found.drafts]]
    )
    return {
        "target": [[replay.alone(line, draft.target_right) for line, draft in answered]],
        "draft": [[replay.written(line, draft.right[draft.cuts[-1]]) for line, draft in answered]],
        "target + draft speculation": [
            [replay.alone(line, draft.target_right, replay.DEPTH) for line, draft in answered]
        ],
        "parse, judge alone": replay.courses(lines, found, judged),
        "parse": replay.courses(lines, found, kept, asks=asks),
        "parse + draft speculation": replay.courses(lines, found, kept, replay.DEPTH, asks),
    }


def gains(methods: Methods, places: Mapping[int, Costs]) -> dict[str, dict[str, Any]]:
    """By answers at a time and method: throughput over that of the target alone."""
    found: dict[str, dict[str, Any]] = {}
    for batch, each in places.items():
        rates = {
            name: each.rate((course for row in rows for course in row), "speculation" in name)
            for name, rows in methods.items()
        }
        found[f"batch_{batch}"] = {
            name: {"gain": rate / rates["target"]} for name, rate in rates.items()
        }
    return found


@dataclass(frozen=True)
class Loose:
    """FLy's answers to some of the questions, by number."""

    asked: list[int]
    courses: list[Course]

    @staticmethod
    def of(file: Path, tokenizer: Tokenizer, lines: Sequence[Line]) -> Loose:
        """What judge-fly has written."""
        answered = {line["prompt"]: line for line in read(file)}
        asked = [i for i, line in enumerate(lines) if line["prompt"] in answered]
        courses = []
        for line in (answered[lines[i]["prompt"]] for i in asked):
            right = gives(tokenizer.decode(line["tokens"]), line["answer"])
            courses.append(Course(right, len(line["tokens"]), passes=line["passes"]))
        return Loose(asked, courses)

    def gain(self, target: Sequence[Course], alone: Costs, chains: Costs) -> float:
        """Over the target's rate of the same questions."""
        return chains.rate(self.courses, True) / alone.rate([target[i] for i in self.asked])

    def said(self, found: Samples) -> dict[str, Any]:
        """Accuracy beside the target's, and counts."""
        return {
            **replay.accuracy([self.courses], found.some(np.asarray(self.asked))),
            "target_passes": sum(course.passes for course in self.courses),
            "tokens": sum(course.tokens for course in self.courses),
        }


def _places(passes: dict[str, float], suffix: int, depth: int) -> list[dict[int, Costs]]:
    """Of this machine, then of `PREDICTED`: what passes take, by answers at a time."""
    geometry = json.loads((RESULTS / "parse_geometry.json").read_text())
    return [
        {batch: costs(passes, batch, suffix, depth) for batch in BATCHES},
        {batch: dense(geometry, 1.19e9, suffix, batch, depth) for batch in BATCHES},
        {batch: LARGE.costs(suffix, batch, depth) for batch in BATCHES},
    ]
