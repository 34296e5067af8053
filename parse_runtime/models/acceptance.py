"""Which drafted tokens are what the model itself would have chosen."""

from __future__ import annotations

import torch
from torch import Tensor

from parse_runtime.signature.selection import SelectionRule

_FIRST_FAILURE = int(SelectionRule.FIRST_FAILURE)


def accept(
    tokens: Tensor, parents: Tensor, ancestors: Tensor, depths: Tensor, choices: Tensor,
    possible: Tensor, levels: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The longest path of a draft tree whose every token is the model's choice at its parent.

    Of B trees with L rows, row 0 the root: `tokens`, `parents` (row numbers), `ancestors` (bits of
    the rows on the way from the root, itself included), `choices` (the model's token after each
    row) int64 [B, L]; `depths` int64 [L], up to `levels`; `possible` bool [B, L]: false where a
    row must not be accepted. Gives the accepted tokens' count [B] and the rows of the path
    [B, levels + 1], which repeats its last row after its end.
    """
    row = torch.arange(tokens.shape[1], dtype=torch.int64, device=tokens.device)
    agrees = (tokens == choices.gather(1, parents)) & possible
    agrees = agrees | (row == 0)
    wrong = torch.where(agrees, 0, torch.ones_like(row) << row).sum(1, keepdim=True)
    accepted = (ancestors & wrong) == 0
    last = torch.where(accepted, depths + 1, 0).argmax(1, keepdim=True)
    count = depths.expand_as(tokens).gather(1, last)
    on_path = ((ancestors.gather(1, last) >> row) & 1) == 1
    level = torch.where(on_path, depths, levels + 1)
    path = last.expand(-1, levels + 2).contiguous()
    path = path.scatter(1, level, row.expand_as(level))[:, : levels + 1]
    return count[:, 0], path


def select(verdicts: Tensor, count: Tensor, threshold: Tensor, rule: Tensor) -> Tensor:
    """Int64 [D]: the number, from 1, of the kept one of the first `count` verdicts; 0 for none.

    Of D drafts: `verdicts` [D, cuts], all else [D]. `rule` is a `SelectionRule`. First failure: the
    last before the first one below `threshold`. Longest accepted: the last that is not below it.
    """
    number = torch.arange(1, verdicts.shape[1] + 1, dtype=torch.int64, device=verdicts.device)
    passed = (verdicts >= threshold[:, None]) & (number <= count[:, None])
    first = passed.to(torch.int64).cumprod(1).sum(1)
    longest = torch.where(passed, number, 0).amax(1)
    return torch.where(rule == _FIRST_FAILURE, first, longest)
