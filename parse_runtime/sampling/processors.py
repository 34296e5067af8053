"""Logits processors, each as transformers or OpenAI's API defines it.

`scores` are float32 [vocabulary] and changed in place; -inf is a token that cannot be.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]
Ids = NDArray[np.int64]
NEVER = np.float32("-inf")


def penalize_repetition(scores: Scores, seen: Ids, penalty: float) -> None:
    """Divide positive scores of the `seen` tokens, and multiply negative ones.

    Keskar et al., arXiv 1909.05858; as transformers, for tokens of prompt and answer.
    """
    here = scores[seen]
    scores[seen] = np.where(here < 0, here * np.float32(penalty), here / np.float32(penalty))


def penalize_counts(
    scores: Scores, tokens: Ids, counts: Ids, presence: float, frequency: float
) -> None:
    """Subtract `presence`, and `frequency` for each time that a token came, as OpenAI's API does.

    `tokens` are different ones, `counts` how often each came in the answer.
    """
    scores[tokens] -= (presence + frequency * counts).astype(np.float32)


def keep_top_k(scores: Scores, k: int) -> None:
    """Only the k largest; those equal to the k-th stay, too."""
    if 0 < k < len(scores):
        scores[scores < np.partition(scores, -k)[-k]] = NEVER


def keep_nucleus(scores: Scores, top_p: float) -> None:
    """Only tokens such that those likelier weigh less than `top_p` together.

    As the graphs do it (`parse_runtime.kernels.sample`): equal tokens stay or go together.
    """
    if top_p >= 1:
        return
    likelihood = softmax(scores)
    descending = np.sort(likelihood[likelihood > 0])[::-1]
    before = np.cumsum(descending) - descending
    # The likeliest stays, whatever rounding does.
    kept = max(1, int(np.count_nonzero(before < np.float32(top_p))))
    scores[likelihood < descending[kept - 1]] = NEVER


def keep_min_p(scores: Scores, min_p: float) -> None:
    """Only tokens at least `min_p` times as likely as the likeliest (arXiv 2407.01082)."""
    if min_p > 0:
        likelihood = softmax(scores)
        scores[likelihood < np.float32(min_p) * likelihood.max()] = NEVER


def softmax(scores: Scores) -> Scores:
    """Float32 probabilities."""
    weights = np.exp(scores - scores.max())
    likelihood: Scores = weights / weights.sum()
    return likelihood


def log_softmax(scores: Scores) -> Scores:
    """Float32 natural logarithms of the probabilities."""
    shifted = scores - scores.max()
    total = np.exp(shifted).sum(dtype=np.float64)
    found: Scores = shifted - np.float32(np.log(total))
    return found
