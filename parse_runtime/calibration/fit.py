"""A regularised logistic regression, and how well its scores separate, in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]
Groups = NDArray[np.int64]

PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0)
_FOLDS = 5
_STEPS = 50


@dataclass(frozen=True)
class Fit:
    """P(right) is the logistic function of x @ weights + offset."""

    weights: Numbers
    offset: float

    def scores(self, x: Numbers) -> Numbers:
        """Before the logistic function."""
        found: Numbers = x @ self.weights + self.offset
        return found


def fit(x: Numbers, right: Flags, penalty: float) -> Fit:
    """The maximum of the likelihood less penalty / 2 times the squared norm of the weights.

    Of the columns of x [samples, columns] brought to mean 0 and deviation 1; one that is constant
    has weight 0. By Newton's method (iteratively reweighted least squares).
    """
    mean, deviation = x.mean(0), x.std(0)
    varies = deviation > 1e-9 * (1 + np.abs(mean))
    scaled = np.where(varies, (x - mean) / np.where(varies, deviation, 1.0), 0.0)
    design = np.column_stack((scaled, np.ones(len(x))))
    ridge = np.diag(np.append(np.full(x.shape[1], penalty), 1e-6))
    weights = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        likelihood = logistic(design @ weights)
        slope = design.T @ (right - likelihood) - ridge @ weights
        curvature = (design * (likelihood * (1 - likelihood))[:, None]).T @ design + ridge
        step = np.linalg.solve(curvature, slope)
        # Far from the maximum a whole step may overshoot.
        weights += step / max(1.0, float(np.abs(step).max()) / 4)
        if np.abs(step).max() < 1e-8:
            break
    own = np.where(varies, weights[:-1] / np.where(varies, deviation, 1.0), 0.0)
    return Fit(own, float(weights[-1] - own @ mean))


def logistic(x: Numbers) -> Numbers:
    """1 / (1 + exp(-x))."""
    found: Numbers = 0.5 * (1 + np.tanh(0.5 * x))
    return found


def auc(scores: Numbers, right: Flags) -> float:
    """Area under the ROC curve: a right one's chance to score above a wrong one; ties are half.

    NaN where all are right or none is (Mann and Whitney's statistic).
    """
    order = np.sort(scores[~right])
    if not len(order) or not right.any():
        return float("nan")
    below = np.searchsorted(order, scores[right], "left")
    to = np.searchsorted(order, scores[right], "right")
    return float((below + to).mean() / (2 * len(order)))


def cross_validated(
    x: Numbers, right: Flags, groups: Groups, penalty: float, telling: Flags, repeats: int = 4
) -> Numbers:
    """Scores of each sample by fits without its group, averaged over divisions into folds.

    Fits learn from the `telling` samples alone.
    """
    names = np.unique(groups)
    total = np.zeros(len(x))
    for seed in range(repeats):
        shuffled = np.random.default_rng(seed).permutation(names)
        for held in np.array_split(shuffled, min(_FOLDS, len(names))):
            out = np.isin(groups, held)
            known = ~out & telling
            total[out] += fit(x[known], right[known], penalty).scores(x[out])
    return total / repeats


def best_penalty(x: Numbers, right: Flags, groups: Groups) -> float:
    """That of PENALTIES whose cross-validated scores predict best, by their likelihood."""

    def loss(penalty: float) -> float:
        scores = cross_validated(x, right, groups, penalty, np.ones_like(right), repeats=1)
        return float(np.logaddexp(0, np.where(right, -scores, scores)).mean())

    return min(PENALTIES, key=loss)


def auc_interval(
    scores: Numbers, right: Flags, groups: Groups, repeats: int = 300
) -> dict[str, float | int]:
    """The area with its 95 % interval by resampling groups (bootstrap)."""
    chooser, names = np.random.default_rng(0), np.unique(groups)
    members = [np.flatnonzero(groups == name) for name in names]
    drawn = []
    for _ in range(repeats):
        chosen = np.concatenate([members[i] for i in chooser.integers(0, len(names), len(names))])
        drawn.append(auc(scores[chosen], right[chosen]))
    found = np.asarray([value for value in drawn if value == value] or [float("nan")])
    low, high = np.quantile(found, (0.025, 0.975))
    return {
        "value": round(auc(scores, right), 4), "low": round(float(low), 4),
        "high": round(float(high), 4), "right": int(right.sum()), "wrong": int((~right).sum()),
    }  # fmt: skip
