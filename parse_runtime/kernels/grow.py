"""The next level of draft trees: the likeliest tokens after the nodes of the level before."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Nodes(NamedTuple):
    """A level of B trees, `width` W nodes each, and their rows in a pass of the head."""

    scores: Tensor
    """Float32 [B, W]: log-probabilities from the root, the largest first."""
    at: Tensor
    """Int64 [B * W], as all that follow: which row of the pass before is each one's parent,"""
    tokens: Tensor
    positions: Tensor
    rows: Tensor
    """kept behind the root's row; `max_len` where there is no room, and for padding."""
    cuts: Tensor
    starts: Tensor
    seen: Tensor


def grown(
    logits: Tensor, scores: Tensor | None, drafts: Tensor, level: int, width: int,
    offsets: Tensor | None, token: Tensor, position: Tensor, max_len: int,
) -> Nodes:  # fmt: skip
    """The `width` nodes of the highest probability from the root; they are put into `drafts`.

    `logits` [B * P, V] follow the roots at level 0, where P is 1, else the W nodes before, whose
    `scores` these are. `drafts` int64 [B, 3, L] have tokens, parents and ancestor bits of all rows
    before; level 0 puts the root in, of `token` at `position`, int64 [B]. A token's id for the
    target is larger by `offsets` int64 [V], if there are any. Padding has the position `max_len`,
    and sees its own row.
    """
    if logits.is_cuda:
        from parse_runtime.kernels.cuda.grow import launch

        return launch(logits, scores, drafts, level, width, offsets, token, position, max_len)
    batch = len(position)
    best, ids = logits.float().log_softmax(-1).topk(width, dim=-1)
    begin = 1 + level * width
    row = torch.arange(begin, begin + width, dtype=torch.int64, device=logits.device)
    first = torch.arange(batch, dtype=torch.int64, device=logits.device)[:, None]
    own = torch.ones_like(row) << row
    if scores is None:
        scores, parent = best, torch.zeros_like(ids)
        parents, ancestors, index = parent, own | 1, first + parent
        drafts[:, :, 0] = torch.stack((token, torch.zeros_like(token), torch.ones_like(token)), 1)
    else:
        paths = scores[:, :, None] + best.view(batch, width, width)
        scores, chosen = paths.flatten(1).topk(width, dim=-1)
        ids, parent = ids.view(batch, -1).gather(1, chosen), chosen // width
        before = drafts[:, 2, begin - width : begin]
        parents, ancestors = parent + (begin - width), before.gather(1, parent) | own
        index = first * width + parent
    if offsets is not None:
        ids = ids + offsets.index_select(0, ids.flatten()).view_as(ids)
    ancestors = ancestors.expand_as(ids)
    drafts[:, :, begin : begin + width] = torch.stack((ids, parents, ancestors), 1)
    root = position[:, None].expand_as(ids)
    going = root < max_len
    numbers = (
        index, ids, root + (level + 1), (root + row).clamp(max=max_len),
        torch.where(going, root + 1, 0), (root + 1).clamp(max=max_len),
        torch.where(going, ancestors >> 1, 1),
    )  # fmt: skip
    return Nodes(scores, *(number.flatten() for number in numbers))
