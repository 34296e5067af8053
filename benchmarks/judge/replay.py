"""What every method makes of gathered drafts (`gather.py`): right answers and passes.

Greedy answers depend on nothing but the models, so that PARSE under any verdicts, and exact
speculation by the same draft, follow from the drafts and from how the target goes on behind each
cut. A speed is the passes times what one takes (`units.py`), so many answers at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.judge.lines import Line
from parse_runtime.calibration.calibrate import calibrated
from parse_runtime.calibration.collect import Samples
from parse_runtime.calibration.interval import share
from parse_runtime.engine.judge import whole_first
from parse_runtime.engine.rules import Rules

DEPTH = 8
"""Tokens that are drafted ahead."""
FOLDS, REPEATS = 5, 4
DRAWN = 2000


@dataclass(frozen=True)
class Course:
    """How one answer comes about."""

    right: bool
    tokens: int
    drafted: int = 0
    """Tokens of the draft model, one after the other."""
    cuts: int = 0
    """Questions to the judge."""
    kept: int = 0
    passes: int = 0
    """The target's, that give a token each, or what follows drafted ones."""
    target: bool = True
    """Whether the target has a part in it."""


def alone(line: Line, right: bool, depth: int = 0) -> Course:
    """The target by itself; with `depth`, it checks so many drafted tokens a pass."""
    own = line["behind"]["0"]
    # The prefill gives the first token.
    return Course(right, len(own["tokens"]), passes=_passes(own, 1, depth))


def written(line: Line, right: bool) -> Course:
    """The draft model by itself."""
    tokens, ended = line["draft"]["tokens"], line["draft"]["ended"]
    return Course(right, len(tokens), len(tokens) + ended, target=False)


def parse(line: Line, right: bool, kept: int, depth: int = 0, asks: bool = True) -> Course:
    """PARSE, where `kept` tokens of the draft stay; `asks` the judge at every cut."""
    draft, cuts = line["draft"], len(line["cuts"]) if asks else 0
    drafted = len(draft["tokens"]) + draft["ended"]
    if kept == len(draft["tokens"]):
        return Course(right, kept, drafted, cuts, kept)
    tokens, ended, alike = _behind(line, kept)
    part = {"tokens": tokens, "ended": ended, "drafted_alike": alike}
    passes = _passes(part, int(kept == 0), depth)
    return Course(right, kept + len(tokens), drafted, cuts, kept, passes)


def _behind(line: Line, kept: int) -> tuple[list[int], bool, str]:
    """What follows a cut; the target goes on alike behind cuts with nothing unlike between them."""
    draft, choices = line["draft"]["tokens"], line["choices"]
    behind = {int(cut): part for cut, part in line["behind"].items()}
    if kept in behind:
        part = behind[kept]
        return part["tokens"], part["ended"], part["drafted_alike"]
    if draft[:kept] == choices[:kept]:
        part = behind[0]
        return part["tokens"][kept:], part["ended"], part["drafted_alike"][kept:]
    later = min(cut for cut in behind if cut > kept)
    part = behind[later]
    written = draft[kept:later]
    return written + part["tokens"], part["ended"], "1" * len(written) + part["drafted_alike"]


def _passes(part: dict[str, Any], known: int, depth: int) -> int:
    """Passes for tokens of which so many are known; that the answer ends is one more to find."""
    count = len(part["tokens"]) + part["ended"]
    if not depth:
        return max(count - known, 0)
    alike, passes = part["drafted_alike"] + "0" * part["ended"], 0
    while known < count:
        run = 0
        while run < depth and alike[known + run : known + run + 1] == "1":
            run += 1
        known, passes = known + run + 1, passes + 1
    return passes


def kept_by_fits(samples: Samples, false_accepts: float, rules: Rules) -> NDArray[np.int64]:
    """[REPEATS, drafts]: how much of each draft stays by a calibration on the other folds."""
    count = len(samples.drafts)
    found = np.zeros((REPEATS, count), np.int64)
    for repeat in range(REPEATS):
        order = np.random.default_rng(repeat).permutation(count)
        for held in np.array_split(order, FOLDS):
            fit = calibrated(samples.some(np.setdiff1d(order, held)), rules, "", false_accepts)
            for number in held:
                draft = samples.drafts[number]
                score = fit.score
                verdicts = [score.verdict(row) for row in draft.evidence[:-1]]
                verdicts.append((score.whole or score).verdict(draft.evidence[-1]))
                found[repeat, number] = whole_first(
                    draft.cuts, verdicts, fit.threshold, rules.selection_rule
                )
    return found


def courses(
    lines: Sequence[Line], samples: Samples, kept: NDArray[np.int64], depth: int = 0,
    asks: bool = True,
) -> list[list[Course]]:  # fmt: skip
    """PARSE of every line, for each row of `kept`."""
    return [
        [
            parse(line, draft.right[stay] if stay else draft.target_right, stay, depth, asks)
            for line, draft, stay in zip(lines, samples.drafts, row.tolist(), strict=True)
        ]
        for row in kept
    ]


def accuracy(found: Sequence[Sequence[Course]], samples: Samples) -> dict[str, Any]:
    """Right answers, and points lost against the target alone with their 95 % interval.

    The interval is of questions drawn again (bootstrap), the mean over repeats of each.
    """
    right = np.asarray([[c.right for c in row] for row in found], float).mean(0)
    own = np.asarray([draft.target_right for draft in samples.drafts], float)
    lost = 100 * (own - right)
    chooser = np.random.default_rng(0)
    drawn = lost[chooser.integers(0, len(lost), (DRAWN, len(lost)))].mean(1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {
        "accuracy": share(round(float(right.sum())), len(right)),
        "lost_points": {
            "value": round(float(lost.mean()), 3), "low": round(float(low), 3),
            "high": round(float(high), 3),
        },
    }  # fmt: skip
