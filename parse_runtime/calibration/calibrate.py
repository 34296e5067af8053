"""From labelled prefixes of drafts to a calibration, and how far it is to be trusted."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from foundryrt.errors import UsageError
from parse_runtime.calibration.collect import Samples
from parse_runtime.calibration.fit import (
    Flags,
    Numbers,
    auc,
    auc_interval,
    best_penalty,
    cross_validated,
    fit,
    logistic,
)
from parse_runtime.calibration.interval import share
from parse_runtime.engine.calibration import Calibration
from parse_runtime.engine.rules import Rules
from parse_runtime.signature.evidence import EVIDENCE
from parse_runtime.signature.selection import SelectionRule

_LEAST = 5
"""Drafts of either kind without which nothing can be said."""
JUDGE = frozenset({"log_odds"})


@dataclass(frozen=True)
class Fitted:
    """Cross-validated verdicts of samples by some of the evidence."""

    samples: Samples
    columns: tuple[int, ...]
    penalty: float
    verdicts: Numbers

    @staticmethod
    def of(samples: Samples, without: Collection[str] = ()) -> Fitted:
        """By all of the evidence but `without`."""
        columns = tuple(i for i, name in enumerate(EVIDENCE) if name not in without)
        x, right, groups = samples.evidence[:, columns], samples.right, samples.groups
        penalty = best_penalty(x, right, groups)
        return Fitted(
            samples, columns, penalty, logistic(cross_validated(x, right, groups, penalty))
        )

    def draft_verdicts(self, rule: SelectionRule) -> tuple[Numbers, Flags]:
        """Of each draft: the highest threshold that keeps it whole, and whether it is right.

        Under first-failure that is the least verdict of its labelled cuts, else its own.
        """
        found = {}
        for group in np.unique(self.samples.groups):
            own = self.samples.groups == group
            kept = self.verdicts[own]
            whole = own & self.samples.whole
            least = kept.min() if rule == SelectionRule.FIRST_FAILURE else self.verdicts[whole][0]
            found[int(group)] = float(least), bool(self.samples.right[whole][0])
        verdicts, right = zip(*found.values(), strict=True)
        return np.asarray(verdicts), np.asarray(right, np.bool_)

    def weights(self) -> tuple[dict[str, float], float]:
        """By name, and the offset: of a fit of all samples."""
        whole = fit(self.samples.evidence[:, self.columns], self.samples.right, self.penalty)
        named = zip((EVIDENCE[i] for i in self.columns), whole.weights.tolist(), strict=True)
        return dict(named), whole.offset


def areas(samples: Samples, verdicts: Numbers) -> dict[str, Any]:
    """AUC of whole drafts and of prefixes, with intervals; of what has right and wrong ones."""
    whole, right, groups = samples.whole, samples.right, samples.groups
    return {
        name: auc_interval(verdicts[which], right[which], groups[which])
        for name, which in (("drafts", whole), ("prefixes", ~whole))
        if right[which].any() and not right[which].all()
    }


def calibrated(samples: Samples, rules: Rules, models: str, false_accepts: float) -> Calibration:
    """The fit, its threshold and its report. UsageError where there is too little to go by.

    The threshold is the least at which at most `false_accepts` of the wrong drafts are kept whole.
    """
    right = samples.right[samples.whole]
    if min(int(right.sum()), int((~right).sum())) < _LEAST:
        raise UsageError(
            f"of {len(right)} drafts {int(right.sum())} are right: with fewer than {_LEAST} right "
            "or wrong ones verdicts cannot be fitted; take more, easier or harder questions"
        )
    without = () if rules.judge_prompt else JUDGE
    fitted = Fitted.of(samples, without)
    kept, drafts_right = fitted.draft_verdicts(rules.selection_rule)
    threshold = least_threshold(kept, drafts_right, false_accepts)
    accepts = fitted.verdicts >= threshold
    labels = samples.right
    report: dict[str, Any] = {
        "drafts": len(right),
        "prefixes": int((~samples.whole).sum()),
        "target_right": share(sum(d.target_right for d in samples.drafts), len(samples.drafts)),
        "draft_right": share(int(right.sum()), len(right)),
        "auc": areas(samples, fitted.verdicts),
        "false_accept": share(int((accepts & ~labels).sum()), int((~labels).sum())),
        "false_reject": share(int((~accepts & labels).sum()), int(labels.sum())),
        "wrong_kept_whole": _kept(kept[~drafts_right], threshold),
        "right_kept_whole": _kept(kept[drafts_right], threshold),
        "penalty": fitted.penalty,
    }
    if rules.judge_prompt:
        report["auc_of_the_judge_alone"] = areas(samples, samples.evidence[:, 0])
        report["auc_without_the_judge"] = areas(samples, Fitted.of(samples, JUDGE).verdicts)
    weights, offset = fitted.weights()
    return Calibration(
        weights=weights, offset=offset, judge_prompt=rules.judge_prompt, threshold=threshold,
        auc=auc(fitted.verdicts[samples.whole], right), models=models, report=report,
    )  # fmt: skip


def least_threshold(kept: Numbers, right: Flags, false_accepts: float) -> float:
    """The least threshold that keeps at most that share of the wrong drafts."""
    wrong = np.sort(kept[~right])[::-1]
    allowed = int(false_accepts * len(wrong))
    if allowed >= len(wrong):
        return 0.0
    # Above the first one that must go, and below what is kept next.
    most = float(wrong[allowed])
    above = kept[kept > most]
    return float((most + above.min()) / 2) if len(above) else min(np.nextafter(most, 2.0), 1.0)


def _kept(verdicts: Numbers, threshold: float) -> dict[str, float | int]:
    return share(int((verdicts >= threshold).sum()), len(verdicts))
