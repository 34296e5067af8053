"""Which drafted tokens other than the model's choices may stay (`parse_runtime.models.loose`)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_FLOOR = -100.0
"""A probability of exp(-100) adds nothing to an entropy in float32."""


def stay(tokens: Tensor, choices: Tensor, logits: Tensor, window: int, least: float) -> Tensor:
    """Int64 [B, L]: choices after each row, with drafted tokens where those stay.

    Of B chains of L rows: their tokens and the model's choices int64 [B, L], and the logits
    [B * L, V] that were chosen from. A drafted token stays where the entropy before it is at
    least log(V) times `least`, and the next `window` drafted tokens are all the choices.
    """
    if tokens.is_cuda:
        from parse_runtime.kernels.cuda.likelihood import launch as likelihood
        from parse_runtime.kernels.cuda.loose import launch

        entropy = likelihood(logits, choices.flatten(), _FLOOR)[1]
        return launch(tokens, choices, entropy, window, least * math.log(logits.shape[1]))
    agrees = tokens[:, 1:] == choices[:, :-1]
    count = agrees.shape[1]
    right = torch.cat((torch.zeros_like(tokens[:, :1]), agrees.to(torch.int64).cumsum(1)), 1)
    followed = right[:, window + 1 :] - right[:, 1 : count - window + 1]
    goes_on = torch.cat((followed == window, agrees[:, :1].expand(-1, window)), 1)
    inside = torch.arange(count, dtype=torch.int64, device=tokens.device) < count - window
    unsure = entropy_share(logits).view_as(tokens)[:, :-1] >= least
    stays = agrees | (goes_on & inside & unsure)
    return torch.cat((torch.where(stays, tokens[:, 1:], choices[:, :-1]), choices[:, -1:]), 1)


def entropy_share(logits: Tensor) -> Tensor:
    """[N] of logits [N, V], as a share of log(V)."""
    likelihood = logits.log_softmax(-1, dtype=torch.float32)
    return -(likelihood.exp() * likelihood).sum(-1) / math.log(logits.shape[1])
