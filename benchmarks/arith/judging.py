"""How well verdicts tell right prefixes of drafts from wrong ones, by threshold and by rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.arith.drive import Problem
from parse_runtime.calibration.interval import share
from parse_runtime.engine.judge import SELECTIONS
from parse_runtime.engine.protocols import Verification

THRESHOLDS = (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)


def right_tokens(draft: str, problem: Problem) -> int:
    """How many tokens of a draft are the solution's; a character is a token."""
    pairs = enumerate(zip(draft, problem.solution, strict=False))
    shorter = min(len(draft), len(problem.solution))
    return next((index for index, (ours, right) in pairs if ours != right), shorter)


def table(
    verdicts: Sequence[Sequence[tuple[int, float]]], right: Sequence[int]
) -> list[dict[str, Any]]:
    """Of first drafts: (cut, verdict) pairs, and the length of each draft's right beginning.

    A false accept is a wrong prefix over the threshold, a false reject a right one under it. By
    rule: how often the kept prefix is wrong, and the mean length of what is kept.
    """
    rows = []
    pairs = [
        (verdict, cut <= good)
        for judged, good in zip(verdicts, right, strict=True)
        for cut, verdict in judged
    ]
    wrong = [verdict for verdict, good in pairs if not good]
    fine = [verdict for verdict, good in pairs if good]
    for threshold in THRESHOLDS:
        row: dict[str, Any] = {
            "threshold": threshold,
            "false_accept": share(sum(v >= threshold for v in wrong), len(wrong)),
            "false_reject": share(sum(v < threshold for v in fine), len(fine)),
        }
        for rule, select in SELECTIONS.items():
            kept = [select([c for c, _ in j], [v for _, v in j], threshold) for j in verdicts]
            spoiled = sum(k > good for k, good in zip(kept, right, strict=True))
            row[rule.label] = {
                "kept_wrong": share(spoiled, len(kept)),
                "mean_kept": round(sum(kept) / max(len(kept), 1), 2),
                "mean_right": round(sum(right) / max(len(right), 1), 2),
            }
        rows.append(row)
    return rows


def one_pass_difference(
    target: Any, problems: Sequence[tuple[list[int], list[int], list[int]]], suffix: list[int],
    words: tuple[int, int],
) -> float:  # fmt: skip
    """Largest difference of a verdict to that of a prefill of prompt, prefix and suffix alone.

    `problems` are prompts, drafts and cuts, `words` the ids of yes and no.
    """
    worst = 0.0
    for prompt, draft, cuts in problems:
        lengths = [len(prompt) + cut for cut in cuts]
        found = target.verify(0, Verification([*prompt, *draft], 0, lengths, suffix))
        for cut, verdict in zip(cuts, found.verdicts, strict=True):
            alone = target.separate([*prompt, *draft[:cut], *suffix], words)
            worst = max(worst, abs(verdict - alone))
    return worst
