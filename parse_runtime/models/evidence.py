"""Log-probabilities of drafted tokens, and verdicts by evidence."""

from __future__ import annotations

import torch
from torch import Tensor

from parse_runtime.signature.evidence import FLOOR


def log_likelihood(logits: Tensor, tokens: Tensor) -> Tensor:
    """Float32 [N]: log-probability of a token after each row of logits [N, V], at least FLOOR."""
    likelihood = logits.log_softmax(-1, dtype=torch.float32)
    return likelihood.gather(1, tokens[:, None])[:, 0].clamp(min=FLOOR)


def keep_likelihood(likelihood: Tensor, places: Tensor, logits: Tensor, tokens: Tensor) -> None:
    """Put a draft model's log-probability of each sampled token at the row before it.

    `likelihood` is `ModelSignature.likelihood`, `places` int64 [N] are the rows of all slots.
    """
    likelihood.view(-1).index_copy_(0, places, log_likelihood(logits, tokens))


def verdicts(evidence: Tensor, score: Tensor) -> Tensor:
    """Float32 [D, cuts]: the logistic function of the score of each row of `evidence` of D drafts.

    `score` [D, EVIDENCE + 1] has the weights and the offset. By two logits of which one is 0: so
    the log-odds alone give the very bits of the softmax that they are of.
    """
    total = (evidence * score[:, None, :-1]).sum(-1) + score[:, None, -1]
    return torch.stack((total, torch.zeros_like(total)), -1).softmax(-1)[..., 0].contiguous()
