"""Draft trees: put into rows, accepted, and what their accepted path becomes.

What these read and write is small; in torch they take some ninety kernels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from parse_runtime.kernels.rotate import places


class Tree(NamedTuple):
    """The rows of B draft trees, L each, in a pass."""

    drafts: Tensor
    """Int64 [B, 3, L]: tokens, parents and ancestor bits, with the roots' tokens."""
    entries: Tensor
    """Int64 [B]: where they came from."""
    tokens: Tensor
    """Int64 [B * L], as all that follow."""
    positions: Tensor
    rows: Tensor
    """Of its slot, in which each is kept, behind the root's; those without room share one."""
    cuts: Tensor
    """Rows below are seen,"""
    starts: Tensor
    """and, from the start on, those of the bits `seen`."""
    seen: Tensor


class Path(NamedTuple):
    """Where the accepted paths of B trees were computed, and where they go; W rows each."""

    at: Tensor
    """Int64 [B * W]: which rows of the pass they are."""
    come: Tensor
    """[B, W]: rows of the slots that they were kept in,"""
    to: Tensor
    """[B, W]: and rows of the sequences that they become; `max_len` where they become none."""
    last: Tensor
    """[B]: which of the B * W rows ends the path,"""
    token: Tensor
    """[B]: the token after it,"""
    position: Tensor
    """[B]: that token's position, up to `max_len`, and its row,"""
    cut: Tensor
    """[B]: below which rows are seen by it,"""
    seen: Tensor
    """[B]: and from which on these bits, its own row."""


def rooted(
    drafts: Tensor, depths: Tensor, token: Tensor, position: Tensor, slots: Tensor, max_len: int
) -> Tree:
    """The trees of `slots` int64 [B], whose roots are `token` at `position`, int64 [B].

    `drafts` int64 [S + 1, 3, L] has one for each slot, the last for padding, whose position is
    `max_len`; `depths` int64 [L] are the levels of rows. Padding sees its own row alone.
    """
    if drafts.is_cuda:
        from parse_runtime.kernels.cuda.drafts import launch_rooted

        return launch_rooted(drafts, depths, token, position, slots, max_len)
    padding = position >= max_len
    entries = torch.where(padding, drafts.shape[0] - 1, slots)
    chosen = drafts.index_select(0, entries)
    tokens = torch.cat((token[:, None], chosen[:, 0, 1:]), dim=1)
    found = torch.stack((tokens, chosen[:, 1], chosen[:, 2]), dim=1)
    row = torch.arange(drafts.shape[2], dtype=torch.int64, device=token.device)
    root = position[:, None].expand_as(tokens)
    seen = torch.where(padding[:, None], 1, chosen[:, 2])
    cuts = torch.where(padding, 0, position)[:, None].expand_as(tokens)
    numbers = (tokens, root + depths, (root + row).clamp(max=max_len), cuts, root, seen)
    return Tree(found, entries, *(number.flatten().contiguous() for number in numbers))


def accept(
    drafts: Tensor, depths: Tensor, choices: Tensor, position: Tensor, max_len: int, levels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The longest path of a draft tree whose every token is the model's choice at its parent.

    Of B trees with L rows, row 0 the root: `drafts` as `Tree` has them, `choices` (the model's
    token after each row) int64 [B, L]; `depths` int64 [L], up to `levels`; `position` int64 [B]
    of the roots: rows that `max_len` leaves no room for are not accepted. Gives the accepted
    tokens' count [B], the rows of the path [B, levels + 1], which repeats its last row after its
    end, and the choice after each of these.
    """
    if drafts.is_cuda:
        from parse_runtime.kernels.cuda.drafts import launch_accept

        return launch_accept(drafts, depths, choices, position, max_len, levels)
    tokens, parents, ancestors = drafts.unbind(1)
    row = torch.arange(tokens.shape[1], dtype=torch.int64, device=tokens.device)
    agrees = (tokens == choices.gather(1, parents)) & (position[:, None] + row < max_len)
    agrees = agrees | (row == 0)
    wrong = torch.where(agrees, 0, torch.ones_like(row) << row).sum(1, keepdim=True)
    accepted = (ancestors & wrong) == 0
    last = torch.where(accepted, depths + 1, 0).argmax(1, keepdim=True)
    count = depths.expand_as(tokens).gather(1, last)
    on_path = ((ancestors.gather(1, last) >> row) & 1) == 1
    level = torch.where(on_path, depths, levels + 1)
    path = last.expand(-1, levels + 2).contiguous()
    path = path.scatter(1, level, row.expand_as(level))[:, : levels + 1]
    return count[:, 0], path, choices.gather(1, path)


def followed(
    position: Tensor, count: Tensor, path: Tensor, after: Tensor, rows: int, max_len: int
) -> Path:
    """Of the paths that `accept` gives, of trees of so many `rows`."""
    if path.is_cuda:
        from parse_runtime.kernels.cuda.drafts import launch_followed

        return launch_followed(position, count, path, after, rows, max_len)
    batch, width = path.shape
    first = torch.arange(batch, dtype=torch.int64, device=path.device)
    level = torch.arange(width, dtype=torch.int64, device=path.device)
    to = position[:, None] + level
    inside = (level <= count[:, None]) & (to < max_len)
    to = torch.where(inside, to, max_len)
    come = torch.where(inside, position[:, None] + path, to)
    last = first * width + count
    token = after.flatten().index_select(0, last)
    index = (first[:, None] * rows + path).flatten()
    end = (position + count).clamp(max=max_len)
    cut = torch.where(end < max_len, end + 1, 0)
    return Path(index, come, to, last, token, end, cut, torch.ones_like(end))


def move(values: Tensor, tables: Tensor, slots: Tensor, come: Tensor, to: Tensor) -> None:
    """Copy rows `come` of slots to the rows `to`, int64 [B, W] both, in every layer of a cache.

    `values`, `tables` and `slots` int64 [B] are those of `parse_runtime.models.cache.Cache`. All
    are read before any is written.
    """
    if values.is_cuda:
        from parse_runtime.kernels.cuda.drafts import launch_move

        return launch_move(values, tables, slots, come, to)
    block = values.shape[3]
    there, here = (places(tables, slots, rows.flatten(), block) for rows in (come, to))
    rows = values.movedim(3, 1)
    rows.index_put_(here, rows[there])
