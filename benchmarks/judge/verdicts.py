"""How well verdicts tell right drafts and prefixes from wrong ones, and what they need for it."""

from __future__ import annotations

from typing import Any

import numpy as np

from parse_runtime.calibration.calibrate import least_threshold
from parse_runtime.calibration.collect import Samples
from parse_runtime.calibration.fit import auc, fit
from parse_runtime.calibration.fitted import JUDGE, Fitted, areas
from parse_runtime.calibration.interval import share
from parse_runtime.signature.evidence import EVIDENCE

WRONG_KEPT = 0.05
NUMBERS = frozenset(name for name in EVIDENCE if name.startswith("numbers"))
_REPEATS = 40
_CLOSE, _REFERENCE = 0.02, 150
"""Of 200 questions, a fit on 150 is tried on the others."""


def by_evidence(samples: Samples, judge: bool = True) -> dict[str, Any]:
    """By kind of evidence, the areas of whole drafts and of prefixes; cross-validated if fitted.

    `judge`: whether one was asked.
    """
    evidence = samples.evidence
    found = {
        "disagreements alone": -evidence[:, EVIDENCE.index("draft_disagreements")],
        "without the judge": Fitted.of(samples, JUDGE).verdicts,
        "without numbers apart": Fitted.of(samples, NUMBERS).verdicts,
    }
    if judge:
        found |= {"judge alone": evidence[:, 0], "all": Fitted.of(samples).verdicts}
    return {name: areas(samples, verdicts) for name, verdicts in found.items()}


def singly(samples: Samples) -> dict[str, dict[str, float]]:
    """The areas of each kind of evidence by itself; below 0.5 where less of it is better."""
    return {
        name: {kind: found["value"] for kind, found in areas(samples, column).items()}
        for name, column in zip(EVIDENCE, samples.evidence.T, strict=True)
    }


def kept(fitted: Fitted) -> dict[str, Any]:
    """Of right drafts, how many are kept whole where 5 % of the wrong ones are."""
    verdicts, right = fitted.drafts()
    threshold = least_threshold(verdicts, right, WRONG_KEPT)
    return share(int((verdicts[right] >= threshold).sum()), int(right.sum()))


def curve(samples: Samples, penalty: float) -> list[dict[str, Any]]:
    """The area of drafts that a fit on some questions has on the others, by their number."""
    count, rows = len(samples.drafts), []
    for asked in (20, 30, 40, 60, 80, 100, _REFERENCE):
        if asked > count * 3 // 4:
            break
        found = []
        for seed in range(_REPEATS):
            order = np.random.default_rng(seed).permutation(count)
            train, test = samples.some(order[:asked]), samples.some(order[asked:])
            known, asked_of = train.right[train.whole], test.right[test.whole]
            if known.any() and not known.all():
                fitted = fit(train.evidence[train.whole], known, penalty)
                found.append(auc(fitted.scores(test.evidence[test.whole]), asked_of))
        rows.append({"questions": asked, "auc": round(float(np.nanmean(found)), 4)})
    return rows


def needed(rows: list[dict[str, Any]]) -> int | None:
    """The fewest questions that come within 0.02 of 150; None where not so many were asked."""
    if rows[-1]["questions"] < _REFERENCE:
        return None
    return next(row["questions"] for row in rows if row["auc"] >= rows[-1]["auc"] - _CLOSE)


def histograms(fitted: Fitted) -> dict[str, list[int]]:
    """Numbers of whole drafts by verdict, in ten bins from 0 to 1: right ones and wrong ones."""
    whole, right = fitted.samples.whole, fitted.samples.right
    return {
        name: np.histogram(fitted.verdicts[whole & which], 10, (0, 1))[0].tolist()
        for name, which in (("right", right), ("wrong", ~right))
    }


def report(samples: Samples) -> dict[str, Any]:
    """All of it, JSON-able."""
    fitted = Fitted.of(samples)
    tells, whole, learning = (
        by_evidence(samples),
        kept(fitted),
        curve(samples, fitted.penalties[True]),
    )
    return {
        "drafts": share(int(samples.right[samples.whole].sum()), len(samples.drafts)),
        "target_right": share(sum(d.target_right for d in samples.drafts), len(samples.drafts)),
        "auc": {name: found["value"] for name, found in tells["all"].items()},
        "auc_by_evidence": tells,
        "auc_of_each": singly(samples),
        "kept_at_5_percent": whole.get("share"),
        "right_kept": whole,
        "calibration_questions": needed(learning),
        "auc_by_questions": learning,
        "histograms": histograms(fitted),
    }
