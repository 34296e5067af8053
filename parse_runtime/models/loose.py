"""FLy's rule for drafted tokens (arXiv 2511.22972): some that the model would not choose may stay.

Where the model is unsure of a token, and agrees with what the draft goes on with for a window of
tokens, another token than its own choice was most likely another wording. The output does then
not follow the model's own distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from parse_runtime.kernels.loose import stay


@dataclass(frozen=True)
class LooseRule:
    """A window in tokens, and the least entropy of a distribution, as a share of its largest."""

    window: int
    entropy: float

    def choices(self, tokens: Tensor, choices: Tensor, logits: Tensor) -> Tensor:
        """Int64 [B, L]: the model's choices after each row, with drafted tokens where those stay.

        Of B chains of L rows: their tokens and the model's choices int64 [B, L], and the logits
        [B * L, V] that were chosen from.
        """
        return stay(tokens, choices, logits, self.window, self.entropy)
