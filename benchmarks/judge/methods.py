"""The same questions answered by every method in one engine: right answers and speed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.arith import drive
from benchmarks.judge.bundles import Pair, opened
from benchmarks.report import say
from parse_runtime.calibration.answers import Question, gives
from parse_runtime.calibration.interval import share
from parse_runtime.engine.batch import Sampling
from parse_runtime.engine.calibration import Calibration
from parse_runtime.engine.outcome import Outcome
from parse_runtime.graphs.loading import Loaded

ALONE = {"max_rounds": 0}
METHODS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "target": ("plain", ALONE, False),
    "parse, judge alone": ("plain", {"calibrated": False}, False),
    "parse": ("plain", {}, True),
    "draft": ("draft", ALONE, False),
    "target + draft speculation": ("speculate", ALONE, False),
    "parse + draft speculation": ("speculate", {}, True),
    "target + FLy": ("fly", ALONE, False),
    "target + eagle3": ("eagle3", ALONE, False),
    "parse + eagle3": ("eagle3", {}, True),
}
"""Each method's bundle, its rules, and whether it judges by the calibration."""


@dataclass(frozen=True)
class Setup:
    """What all methods share."""

    pair: Pair
    folder: Path
    target: str
    slots: int
    questions: Sequence[Question]
    length: int
    calibration: Calibration


def measure(setup: Setup, at_a_time: Sequence[int]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """For each method and number of answers at a time: right answers, speed and counts."""
    variants = dict.fromkeys(variant for variant, _, _ in METHODS.values())
    for variant in variants:
        if not setup.pair.has(variant):
            continue
        with opened(setup.pair, variant, setup.folder, setup.target, setup.slots) as loaded:
            for name, (own, rules, fitted) in METHODS.items():
                if own == variant:
                    chosen = drive.calibrated(loaded, setup.calibration) if fitted else loaded
                    for count in at_a_time:
                        row = _method(setup, chosen, rules, count)
                        say(f"{count:3} {name:28} {row['accuracy']['share']:.3f}"
                            f" {row['tokens_per_second']:8.1f} tokens/s")  # fmt: skip
                        yield count, name, row


def _method(setup: Setup, loaded: Loaded, rules: dict[str, Any], at_a_time: int) -> dict[str, Any]:
    chosen = loaded.rules.changed(rules)

    def asked(questions: Sequence[Question]) -> list[Outcome]:
        return [
            Outcome(
                loaded.prompts.request(question.prompt, setup.length, Sampling(), chosen),
                loaded.prompts.text([]),
            )
            for question in questions
        ]

    # What only first answers cost is not timed.
    drive.seconds(loaded, asked(setup.questions[:at_a_time]), at_a_time)
    outcomes = asked(setup.questions)
    seconds = drive.seconds(loaded, outcomes, at_a_time)
    counts = [outcome.statistics for outcome in outcomes]
    right = sum(gives(o.text, q.answer) for o, q in zip(outcomes, setup.questions, strict=True))
    tokens, advances = sum(c.tokens for c in counts), sum(c.advances for c in counts)
    drafted = sum(c.drafted for c in counts)
    return {
        "accuracy": share(right, len(outcomes)),
        "tokens_per_second": tokens / seconds,
        "seconds_per_answer": seconds / len(outcomes),
        "tokens": tokens,
        "tokens_drafted_whole": drafted,
        "accepted_share": sum(c.accepted for c in counts) / drafted if drafted else 0.0,
        "target_passes": advances,
        "tokens_per_target_pass": sum(c.advanced for c in counts) / advances if advances else 0.0,
    }
