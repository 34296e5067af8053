"""What a verification knows about each cut, and the score of it that a verdict is made of.

The names are columns of the output `evidence` of verify passes, whose order graphs in bundles know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STATISTICS = (
    "tokens",
    "disagreements",
    "unlikely",
    "log_likelihood",
    "entropy",
    "draft_log_likelihood",
    "least_log_likelihood",
)
"""Of some drafted tokens: how many; how many are not the target's argmax; how many it gives less
than `UNLIKELY`; sums of their log-probabilities under the target, of the entropies of its
distributions, of their log-probabilities under the draft model; the least log-probability."""
UNLIKELY = 0.3
FLOOR = -100.0
"""The least log-probability that is counted."""
SCOPES = ("draft", "segment", "numbers")
"""From the draft's beginning to the cut; from the cut before; the draft's that are digits."""
EVIDENCE = (
    "log_odds",
    *(f"{scope}_{name}" for scope in SCOPES for name in (*STATISTICS, "mean_log_likelihood")),
)
"""`log_odds` is the judge's: log P(yes) - log P(no) at the end of the suffix."""


@dataclass(frozen=True)
class Score:
    """A verdict is the logistic function of `offset` plus the weighted sum of the evidence."""

    weights: tuple[float, ...]
    """Of each column of `EVIDENCE`."""
    offset: float = 0.0
    whole: Score | None = None
    """That of a whole draft, where it is another than its prefixes'."""

    @property
    def packed(self) -> NDArray[np.float32]:
        """Float32 [len(EVIDENCE) + 1], the offset last, as verify passes take it."""
        return np.asarray([*self.weights, self.offset], np.float32)

    def verdict(self, evidence: Sequence[float] | NDArray[np.float32]) -> float:
        """Of one row of evidence, as verify passes compute it, but in float64."""
        total = float(np.dot(self.weights, np.asarray(evidence, np.float64))) + self.offset
        return float(0.5 * (1 + np.tanh(0.5 * total)))

    @property
    def weighs_tokens(self) -> bool:
        """Whether anything but the judge's answer counts."""
        return any(self.weights[1:])


LOG_ODDS = Score((1.0, *(0.0 for _ in EVIDENCE[1:])))
"""The judge's answer alone: a verdict is P(yes) / (P(yes) + P(no))."""

Evidence = NDArray[np.float32]
"""[cuts, len(EVIDENCE)]."""


def carry(evidence: Evidence, cuts: int) -> NDArray[np.float32]:
    """Float32 [SCOPES, STATISTICS]: what is known after a pass of `cuts` cuts.

    What the next pass goes on from. A cut closes a segment; without cuts all is in row 0.
    """
    scopes = evidence[max(cuts - 1, 0), 1:].reshape(len(SCOPES), -1)[:, : len(STATISTICS)].copy()
    if cuts:
        scopes[SCOPES.index("segment")] = 0
    return scopes


def scored_tokens(verify: Sequence[tuple[int, int]], stride: int, asked: str) -> tuple[int, ...]:
    """Of each verify size (rows, cuts), the drafted tokens that it has evidence of; or nothing.

    `asked` lists them in the order of the sizes, or is 0; empty for as many as cuts a `stride`
    apart reach. ValueError where it is no such list.
    """
    if not asked:
        return tuple(max(min(rows - cuts, cuts * stride), 1) for rows, cuts in verify)
    counts = [int(part) for part in asked.split(",")]
    if counts == [0]:
        return ()
    if min(counts) < 1:
        raise ValueError(f"{min(counts)} tokens")
    return tuple(min(count, rows) for count, (rows, _) in zip(counts, verify, strict=True))
