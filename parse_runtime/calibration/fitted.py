"""Fits of verdicts to labelled prefixes: one for whole drafts, one for what is before their end.

The end of a draft has its answer, so that the last segment tells most there; before it, the whole
prefix does. One fit for both would be worse at either.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from parse_runtime.calibration.collect import Samples
from parse_runtime.calibration.fit import (
    Flags,
    Numbers,
    auc_interval,
    best_penalty,
    cross_validated,
    fit,
    logistic,
)
from parse_runtime.signature.evidence import EVIDENCE
from parse_runtime.signature.selection import SelectionRule

JUDGE = frozenset({"log_odds"})


@dataclass(frozen=True)
class Fitted:
    """Cross-validated verdicts of samples by some of the evidence, each by the fit of its kind."""

    samples: Samples
    columns: tuple[int, ...]
    penalties: dict[bool, float]
    """Of whole drafts (True), and of prefixes."""
    verdicts: Numbers

    @staticmethod
    def of(samples: Samples, without: Collection[str] = ()) -> Fitted:
        """By all of the evidence but `without`."""
        columns = tuple(i for i, name in enumerate(EVIDENCE) if name not in without)
        x, right, groups = samples.evidence[:, columns], samples.right, samples.groups
        verdicts, penalties = np.zeros(len(right)), {}
        for whole in (True, False):
            known = _learnt(samples, whole)
            penalty = best_penalty(x[known], right[known], groups[known])
            scores = cross_validated(x, right, groups, penalty, known)
            part = samples.whole == whole
            verdicts[part], penalties[whole] = logistic(scores)[part], penalty
        return Fitted(samples, columns, penalties, verdicts)

    def drafts(self) -> tuple[Numbers, Flags]:
        """Of each whole draft: its verdict, and whether it is right."""
        whole = self.samples.whole
        return self.verdicts[whole], self.samples.right[whole]

    def prefixes(self, rule: SelectionRule) -> tuple[Numbers, Flags]:
        """Of each draft: up to which threshold a prefix is kept, and whether none is a wrong one.

        A wrong one where there is any. Labels that tell nothing do not count.
        """
        kept, fine = [], []
        counted = ~self.samples.whole & self.samples.telling
        for group in np.unique(self.samples.groups[counted]):
            own = counted & (self.samples.groups == group)
            verdicts, wrong = self.verdicts[own], ~self.samples.right[own]
            if rule == SelectionRule.FIRST_FAILURE:
                verdicts = np.minimum.accumulate(verdicts)
            kept.append(float(verdicts[wrong].max() if wrong.any() else verdicts.max()))
            fine.append(not wrong.any())
        return np.asarray(kept), np.asarray(fine, np.bool_)

    def weights(self, whole: bool) -> tuple[dict[str, float], float]:
        """By name, and the offset: of a fit of all samples of whole drafts, or of prefixes."""
        known = _learnt(self.samples, whole)
        x = self.samples.evidence[:, self.columns]
        found = fit(x[known], self.samples.right[known], self.penalties[whole])
        named = zip((EVIDENCE[i] for i in self.columns), found.weights.tolist(), strict=True)
        return dict(named), found.offset


def _learnt(samples: Samples, whole: bool) -> Flags:
    """What a fit learns from: of prefixes, whole drafts where these have no wrong or right ones."""
    known: Flags = (samples.whole == whole) & samples.telling
    right = samples.right[known]
    return known if whole or (right.any() and not right.all()) else samples.whole


def areas(samples: Samples, verdicts: Numbers) -> dict[str, Any]:
    """AUC with intervals of whole drafts and of prefixes whose labels tell something.

    And of those of questions that the target answers rightly, and of all prefixes.
    """
    whole, right, groups = samples.whole, samples.right, samples.groups
    kinds = {
        "drafts": whole, "prefixes": ~whole & samples.telling,
        "drafts_target_right": whole & samples.target_right, "all_prefixes": ~whole,
    }  # fmt: skip
    return {
        name: auc_interval(verdicts[which], right[which], groups[which])
        for name, which in kinds.items()
        if right[which].any() and not right[which].all()
    }
