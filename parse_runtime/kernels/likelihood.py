"""What distributions say about given tokens: their log-probability, the entropy, the argmax."""

from __future__ import annotations

import torch
from torch import Tensor


def token_likelihood(logits: Tensor, tokens: Tensor, floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of logits [N, V] and a token for each row: three of [N].

    The token's log-probability and the entropy, in nats, float32; the likeliest token, the lowest
    of equal ones, int64. A logit counts as no less than `floor` below the largest, and the
    log-probability as no less than `floor`.
    """
    if logits.is_cuda:
        from parse_runtime.kernels.cuda.likelihood import launch

        return launch(logits, tokens, floor)
    # Two tensors of N x V and no more: their memory is what this costs on a CPU.
    below = logits.to(torch.float32, copy=True)
    choices = below.argmax(-1)
    below.sub_(below.amax(-1, keepdim=True)).clamp_(min=floor)
    own = below.gather(1, tokens[:, None])[:, 0]
    weights = below.exp()
    total = weights.sum(-1)
    entropy = total.log() - weights.mul_(below).sum(-1) / total
    return (own - total.log()).clamp(min=floor), entropy, choices


def keep_likelihood(
    kept: Tensor, places: Tensor, logits: Tensor, tokens: Tensor, floor: float
) -> None:
    """Put the log-probability of a token for each row of logits [N, V], at least `floor`, into
    `kept` float32 [M] at `places` int64 [N]. Of several to one place any one stays.
    """
    if logits.is_cuda:
        from parse_runtime.kernels.cuda.likelihood import launch_keep

        return launch_keep(kept, places, logits, tokens, floor)
    likelihood = logits.log_softmax(-1, dtype=torch.float32)
    kept.index_copy_(0, places, likelihood.gather(1, tokens[:, None])[:, 0].clamp(min=floor))
