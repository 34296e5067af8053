"""From labelled prefixes of drafts to a calibration, and how far it is to be trusted."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from foundryrt.errors import UsageError
from parse_runtime.calibration.collect import Samples
from parse_runtime.calibration.fit import Flags, Numbers, auc
from parse_runtime.calibration.fitted import JUDGE, Fitted, areas
from parse_runtime.calibration.interval import share
from parse_runtime.engine.calibration import Calibration
from parse_runtime.engine.rules import Rules

_LEAST = 5
"""Drafts of either kind without which nothing can be said."""
_ADDS = 0.005
"""By how much an area must be larger with the judge's answer than without, to be worth asking."""


def best(samples: Samples, rules: Rules, models: str, false_accepts: float) -> Calibration:
    """As `calibrated`; the judge is asked only where its answer adds to the rest.

    Or where verdicts would not separate without it. The question is most of a verification's rows.
    """
    found = calibrated(samples, rules, models, false_accepts)
    without = found.report.get("auc_without_the_judge")
    if without is None or any(
        area["value"] > without[kind]["value"] + _ADDS
        for kind, area in found.report["auc"].items()
        if kind in ("drafts", "prefixes")
    ):
        return found
    unasked = calibrated(samples, replace(rules, judge_prompt=""), models, false_accepts)
    if found.separates and not unasked.separates:
        return found
    asked = {
        "auc_of_the_judge_alone": found.report["auc_of_the_judge_alone"],
        "auc_with_the_judge": found.report["auc"],
    }
    return msgspec.structs.replace(unasked, report={**unasked.report, **asked})


def calibrated(samples: Samples, rules: Rules, models: str, false_accepts: float) -> Calibration:
    """The fit, its threshold and its report. UsageError where there is too little to go by.

    The threshold is the least at which at most `false_accepts` of the wrong drafts are kept whole,
    and a wrong prefix of as many of the drafts that have one; for both it is brought to the same.
    """
    right = samples.right[samples.whole]
    if min(int(right.sum()), int((~right).sum())) < _LEAST:
        raise UsageError(
            f"of {len(right)} drafts {int(right.sum())} are right: with fewer than {_LEAST} right "
            "or wrong ones verdicts cannot be fitted; take more, easier or harder questions"
        )
    without = () if rules.judge_prompt else JUDGE
    fitted = Fitted.of(samples, without)
    kept, drafts_right = fitted.drafts()
    threshold = least_threshold(kept, drafts_right, false_accepts)
    prefixes, fine = fitted.prefixes(rules.selection_rule)
    of_prefixes = least_threshold(prefixes, fine, false_accepts) if len(fine) else threshold
    accepts = fitted.verdicts >= np.where(samples.whole, threshold, of_prefixes)
    labels, telling = samples.right, samples.telling
    wrong, right_ones = ~labels & telling, labels & telling
    report: dict[str, Any] = {
        "drafts": len(right),
        "prefixes": int((~samples.whole & telling).sum()),
        "target_right": share(sum(d.target_right for d in samples.drafts), len(samples.drafts)),
        "draft_right": share(int(right.sum()), len(right)),
        "auc": areas(samples, fitted.verdicts),
        "false_accept": share(int((accepts & wrong).sum()), int(wrong.sum())),
        "false_reject": share(int((~accepts & right_ones).sum()), int(right_ones.sum())),
        "wrong_kept_whole": _kept(kept[~drafts_right], threshold),
        "right_kept_whole": _kept(kept[drafts_right], threshold),
        "wrong_prefix_kept": _kept(prefixes[~fine], of_prefixes),
        "penalties": [fitted.penalties[True], fitted.penalties[False]],
    }
    if rules.judge_prompt:
        report["auc_of_the_judge_alone"] = areas(samples, samples.evidence[:, 0])
        report["auc_without_the_judge"] = areas(samples, Fitted.of(samples, JUDGE).verdicts)
    weights, offset = fitted.weights(False)
    whole_weights, whole_offset = fitted.weights(True)
    return Calibration(
        weights=weights, offset=offset + _odds(threshold) - _odds(of_prefixes),
        whole_weights=whole_weights, whole_offset=whole_offset,
        judge_prompt=rules.judge_prompt, threshold=threshold,
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


def _odds(likelihood: float) -> float:
    within = min(max(likelihood, 1e-6), 1 - 1e-6)
    return math.log(within / (1 - within))
