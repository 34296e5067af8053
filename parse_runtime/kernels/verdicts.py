"""Verdicts about the cuts of drafts, which of these is kept, and logits of a few words."""

from __future__ import annotations

import torch
from torch import Tensor

FIRST_FAILURE = 0
"""The number of that `SelectionRule`."""


def judged(
    evidence: Tensor, score: Tensor | None, count: Tensor, threshold: Tensor, rule: Tensor
) -> tuple[Tensor, Tensor]:
    """Verdicts float32 [D, cuts] of D drafts, and the number int64 [D] of the cut that is kept.

    `evidence` [D, cuts, EVIDENCE] has `score` [D, EVIDENCE + 1], its weights and the offset: a
    verdict is the logistic function of what they give. Without a score it has two columns, the
    logits of yes and no, and a verdict is the softmax. Log-odds alone give the very bits of the
    softmax that they are of. The rest is as for `select`.
    """
    if evidence.is_cuda:
        from parse_runtime.kernels.cuda.verdicts import launch

        return launch(evidence, score, count, threshold, rule)
    if score is not None:
        total = (evidence * score[:, None, :-1]).sum(-1) + score[:, None, -1]
        evidence = torch.stack((total, torch.zeros_like(total)), -1)
    verdicts = evidence.softmax(-1)[..., 0].contiguous()
    return verdicts, select(verdicts, count, threshold, rule)


def unrounded(x: Tensor, weight: Tensor) -> Tensor:
    """Float32 [N, K]: x [N, H] times a few rows weight [K, H], multiplied and summed in float32."""
    if x.is_cuda:
        from parse_runtime.kernels.cuda.verdicts import launch_unrounded

        return launch_unrounded(x, weight)
    return (x.float()[:, None] * weight.float()).sum(-1)


def select(verdicts: Tensor, count: Tensor, threshold: Tensor, rule: Tensor) -> Tensor:
    """Int64 [D]: the number, from 1, of the kept one of the first `count` verdicts; 0 for none.

    Of D drafts: `verdicts` [D, cuts], all else [D]. `rule` is a `SelectionRule`. First failure: the
    last before the first one below `threshold`. Longest accepted: the last that is not below it.
    """
    number = torch.arange(1, verdicts.shape[1] + 1, dtype=torch.int64, device=verdicts.device)
    passed = (verdicts >= threshold[:, None]) & (number <= count[:, None])
    first = passed.to(torch.int64).cumprod(1).sum(1)
    longest = torch.where(passed, number, 0).amax(1)
    return torch.where(rule == FIRST_FAILURE, first, longest)
