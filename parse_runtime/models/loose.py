"""FLy's rule for drafted tokens (arXiv 2511.22972): some that the model would not choose may stay.

Where the model is unsure of a token, and agrees with what the draft goes on with for a window of
tokens, another token than its own choice was most likely another wording. The output does then
not follow the model's own distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LooseRule:
    """A window in tokens, and the least entropy of a distribution, as a share of its largest."""

    window: int
    entropy: float

    def choices(self, tokens: Tensor, choices: Tensor, logits: Tensor) -> Tensor:
        """Int64 [B, L]: the model's choices after each row, with drafted tokens where those stay.

        Of B chains of L rows: their tokens and the model's choices int64 [B, L], and the logits
        [B * L, V] that were chosen from. A drafted token stays where the entropy before it is at
        least log(V) times `entropy`, and the next `window` drafted tokens are all the choices.
        """
        agrees = tokens[:, 1:] == choices[:, :-1]
        count = agrees.shape[1]
        right = torch.cat((torch.zeros_like(tokens[:, :1]), agrees.to(torch.int64).cumsum(1)), 1)
        followed = right[:, self.window + 1 :] - right[:, 1 : count - self.window + 1]
        goes_on = torch.cat((followed == self.window, agrees[:, :1].expand(-1, self.window)), 1)
        inside = torch.arange(count, dtype=torch.int64, device=tokens.device) < count - self.window
        unsure = self._entropy(logits).view_as(tokens)[:, :-1] >= self.entropy
        stays = agrees | (goes_on & inside & unsure)
        return torch.cat((torch.where(stays, tokens[:, 1:], choices[:, :-1]), choices[:, -1:]), 1)

    @staticmethod
    def _entropy(logits: Tensor) -> Tensor:
        """[N] of logits [N, V], as a share of log(V)."""
        likelihood = logits.log_softmax(-1, dtype=torch.float32)
        return -(likelihood.exp() * likelihood).sum(-1) / math.log(logits.shape[1])
