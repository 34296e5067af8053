"""Training-time test: the head is trained on its own outputs, as in drafting (EAGLE-3, 3.2)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from parse_runtime.kernels.rotate import rotary
from parse_runtime.training.head import Head

_DECAY = 0.8
"""Weight of each level's loss, of that of the level before."""


def loss(
    head: Head,
    frequencies: Tensor,
    features: Tensor,
    embedded: Tensor,
    logits: Tensor,
    weights: Tensor,
    depth: int,
) -> tuple[Tensor, Tensor]:
    """Cross entropy to the target's distribution over `depth` levels, and hits.

    Row i has the target's features [B, N, 3 hidden] of token i, the embedding [B, N, hidden] of
    token i + 1, the target's logits [B, N, draft vocabulary] of token i + 2 and the weight [B, N]
    of that token. Hits [depth] is how often a level's likeliest token is the target's.
    """
    wanted, best = logits.softmax(-1), logits.argmax(-1)
    row = torch.arange(features.shape[1], device=features.device)
    losses, hits = [], []
    for level, scores in enumerate(levels(head, frequencies, features, embedded, depth)):
        # The first rows of a level would continue a draft from before the sequence.
        kept = weights * (row >= level)
        total = kept.sum().clamp(min=1)
        entropy = -(wanted * scores.log_softmax(-1)).sum(-1)
        losses.append(_DECAY**level * (entropy * kept).sum() / total)
        hits.append(((scores.argmax(-1) == best) * kept).sum() / total)
    return torch.stack(losses).sum(), torch.stack(hits).detach()


def levels(
    head: Head, frequencies: Tensor, features: Tensor, embedded: Tensor, depth: int
) -> Iterator[Tensor]:
    """Logits float32 [B, N, draft vocabulary] of each level.

    Row i of level j is what the head says there after drafting from row i - j.
    """
    positions = torch.arange(features.shape[1], device=features.device)
    rotation = rotary(positions, frequencies, features.dtype)
    feature = head.fc(features)
    keys: list[Tensor] = []
    values: list[Tensor] = []
    for _ in range(depth):
        q, k, v = head.midlayer.project(embedded, feature, rotation)
        keys.append(k)
        values.append(v)
        feature = head.midlayer.finish(feature, _attend(q, keys, values))
        yield head.lm_head(head.norm(feature)).float()
        feature = F.pad(feature, (0, 0, 1, 0))[:, :-1]


def _attend(q: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    """Row i of level j sees level 0 up to row i - j, and level m at row i - j + m.

    Those are the rows that drafting from row i - j has: true features up to there, its own after.
    """
    level, n = len(keys) - 1, q.shape[2]
    rows = torch.arange(n, device=q.device)
    scale = q.shape[-1] ** -0.5
    seen = rows <= rows[:, None] - level
    parts = [(q @ keys[0].transpose(-1, -2) * scale).masked_fill(~seen, float("-inf"))]
    drafted = [
        (_shift(k, level - m), _shift(values[m], level - m)) for m, k in enumerate(keys) if m
    ]
    parts += [(q * k).sum(-1, keepdim=True) * scale for k, _ in drafted]
    weights = torch.cat(parts, -1).float().softmax(-1).to(q.dtype)
    attended = weights[..., :n] @ values[0]
    for index, (_, v) in enumerate(drafted):
        attended = attended + weights[..., n + index, None] * v
    return attended


def _shift(x: Tensor, rows: int) -> Tensor:
    """[B, heads, N, d] moved down by `rows`, zeros above."""
    return F.pad(x, (0, 0, rows, 0))[:, :, : x.shape[2]]
