"""The same problems answered by every method in turn: accuracy, speed and counts."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.arith import drive
from benchmarks.arith.bundles import MAX_NEW_TOKENS
from benchmarks.arith.task import grade
from benchmarks.judge import verdicts
from benchmarks.report import say
from foundryrt.progress import progress_bar
from parse_runtime.calibration.answers import Question
from parse_runtime.calibration.calibrate import calibrated
from parse_runtime.calibration.collect import collect
from parse_runtime.calibration.interval import share
from parse_runtime.engine.calibration import Calibration
from parse_runtime.graphs.loading import Loaded


@dataclass(frozen=True)
class Method:
    """A way to answer: a bundle, its rules, and whether verdicts are those of a fit."""

    bundle: str
    rules: dict[str, Any] = field(default_factory=dict)
    calibrated: bool = False


ALONE: dict[str, Any] = {"max_rounds": 0}
METHODS = {
    "target": Method("pair", ALONE),
    "draft": Method("draft", ALONE),
    "target+draft": Method("speculate", ALONE),
    "target+eagle3": Method("eagle3", ALONE),
    "target+FLy": Method("fly", ALONE),
    "parse": Method("pair"),
    "parse+draft": Method("speculate"),
    "parse+eagle3": Method("eagle3"),
    "calibrated parse": Method("pair", calibrated=True),
    "calibrated parse+draft": Method("speculate", calibrated=True),
    "calibrated parse+eagle3": Method("eagle3", calibrated=True),
}


def calibrate(
    pair: Loaded, problems: Sequence[drive.Problem]
) -> tuple[Calibration, dict[str, Any]]:
    """A fit of verdicts to drafts of the problems, and how well such verdicts tell."""
    questions = [Question(problem.question, str(problem.number)) for problem in problems]
    samples = collect(pair, questions, pair.rules, MAX_NEW_TOKENS, progress_bar)
    found = calibrated(samples, pair.rules, "", verdicts.WRONG_KEPT)
    fit = {"threshold": found.threshold, "weights": found.weights, "offset": found.offset,
           "whole_weights": found.whole_weights, "whole_offset": found.whole_offset}  # fmt: skip
    return found, {"problems": len(samples.drafts), **fit, **verdicts.report(samples)}


def measure(
    loaded: Mapping[str, Loaded], names: Iterable[str], fit: Calibration | None,
    problems: Sequence[drive.Problem], chunks: int, concurrent: int, threshold: float,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Accuracy, speed and counts by name, over the first chunk, the first two and so on.

    Without a `fit` those that judge by one are left out.
    """
    answerers = {}
    for name in names:
        method = METHODS[name]
        own, rules = loaded[method.bundle], {"threshold": threshold, **method.rules}
        if method.calibrated:
            if fit is None:
                continue
            own, rules = drive.calibrated(own, fit), method.rules
        answerers[name] = own, rules
        # What only first answers cost is not timed.
        drive.answer(own, problems[:concurrent], concurrent, rules)
    runs: dict[str, list[drive.Run]] = {name: [] for name in answerers}
    size = -(-len(problems) // chunks)
    for begin in range(0, len(problems), size):
        chunk = problems[begin : begin + size]
        for name, (own, rules) in answerers.items():
            runs[name].append(drive.answer(own, chunk, concurrent, rules))
        took = ", ".join(f"{name} {found[-1].seconds:.1f} s" for name, found in runs.items())
        say(f"{concurrent:3} at a time, {begin + len(chunk)} of {len(problems)}: {took}")
        yield {"problems": begin + len(chunk), "methods": _rows(runs, problems)}
    for name, found in _rows(runs, problems).items():
        accuracy, rate, gain = found["accuracy"], found["tokens_per_second"], found["gain"]
        say(f"{concurrent:3} {name:24} {accuracy['share']:.4f} {rate:9.0f} tokens/s x{gain:.2f}")


def _rows(
    runs: Mapping[str, list[drive.Run]], problems: Sequence[drive.Problem]
) -> dict[str, dict[str, Any]]:
    found = {}
    for name, own in runs.items():
        pairs = zip(own, runs["target"], strict=True)
        gain = statistics.median(base.seconds / run.seconds for run, base in pairs)
        found[name] = {**row(own, problems), "gain": gain}
    return found


def row(runs: Sequence[drive.Run], problems: Sequence[drive.Problem]) -> dict[str, Any]:
    """One method's, of runs over the first problems."""
    outcomes = [outcome for run in runs for outcome in run.outcomes]
    counts = [outcome.statistics for outcome in outcomes]
    right = sum(grade(o.text) == p.number for o, p in zip(outcomes, problems, strict=False))
    rounds, advances = sum(c.rounds for c in counts), sum(c.advances for c in counts)
    drafted = sum(c.drafted for c in counts)
    return {
        "accuracy": share(right, len(outcomes)),
        "tokens_per_second": statistics.median(run.tokens / run.seconds for run in runs),
        "problems_per_second": statistics.median(len(run.outcomes) / run.seconds for run in runs),
        "rounds": rounds / len(counts),
        "acceptance_length": sum(c.accepted for c in counts) / rounds if rounds else 0.0,
        "accepted_share": sum(c.accepted for c in counts) / drafted if drafted else 0.0,
        "tokens_per_advance": sum(c.advanced for c in counts) / advances if advances else 0.0,
        "seconds": {
            part: sum(getattr(c, f"{part}_seconds") for c in counts) / len(counts)
            for part in ("prefill", "draft", "verify", "resume")
        },
    }
