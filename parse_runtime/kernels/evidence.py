"""What the target's distributions say about drafted tokens, summed up by cut."""

from __future__ import annotations

import torch
from torch import Tensor

_SUMS = 6
"""Statistics of `parse_runtime.signature.evidence` that are sums; a least one follows them."""
_TILE = 128
"""Rows that a product of many computes together."""


def whole_tiles(count: int, cuts: int) -> int:
    """How many tokens to ask about in place of `count`: up to a twentieth fewer.

    One product is made for their rows and the cuts', whose last tile would have few else.
    """
    left_over = (count + cuts) % _TILE
    return count - left_over if 20 * left_over <= count else count


def least_sure(draft: Tensor, segments: Tensor, cuts: int, count: int) -> tuple[Tensor, Tensor]:
    """Which of N drafted tokens have the least log-probabilities `draft` [D, N]: int64 [D, count].

    And int64 [D, N], where each token is among these, or -1. Those of segment `cuts`, which count
    nowhere, come last. D drafts, each by itself.
    """
    if draft.is_cuda:
        from parse_runtime.kernels.cuda.evidence import launch_least_sure

        return launch_least_sure(draft, segments, cuts, count)
    asked = torch.where(segments < cuts, draft, 1.0).topk(count, largest=False).indices
    number = torch.arange(count, dtype=torch.int64, device=draft.device)
    return asked, torch.full_like(segments, -1).scatter(1, asked, number.expand_as(asked))


def by_cut(
    chosen: Tensor, said: tuple[Tensor, Tensor, Tensor], place: Tensor, tokens: Tensor,
    draft: Tensor, numbers: Tensor, segments: Tensor, carried: Tensor, unlikely: float,
) -> Tensor:  # fmt: skip
    """Float32 [D, cuts, EVIDENCE] of N drafted tokens of each of D drafts.

    `chosen` float32 [D, cuts, 2] are the judge's logits of yes and no. `said` is `token_likelihood`
    of the tokens that the target is asked about, [D, n] each, `place` int64 [D, N] where each of
    all is among these, or -1. Of the others it is believed that it would have chosen them, as
    likely as `draft` [D, N], their log-probability under the draft model, and has thought of
    nothing else. `numbers` bool [D, N], `segments` int64 [D, N] and `carried` are those of
    `summed`; what the target gives less than `unlikely` counts as that.
    """
    if chosen.is_cuda:
        from parse_runtime.kernels.cuda.evidence import launch_by_cut

        return launch_by_cut(
            chosen, said, place, tokens, draft, numbers, segments, carried, unlikely
        )
    asked, at = place >= 0, place.clamp(min=0)
    own, entropy, choices = (found.gather(1, at) for found in said)
    own = torch.where(asked, own, draft)
    unlike, rare = asked & (choices != tokens), asked & (own.exp() < unlikely)
    each = torch.stack(
        (
            torch.ones_like(own), unlike.float(), rare.float(), own,
            torch.where(asked, entropy, 0.0), draft, own,
        ), -1,
    )  # fmt: skip
    odds = chosen[..., :1] - chosen[..., 1:]
    found = zip(each, numbers, segments, carried, strict=True)
    cuts = chosen.shape[1]
    return torch.cat((odds, torch.stack([summed(*one, cuts) for one in found])), -1)


def summed(each: Tensor, numbers: Tensor, segments: Tensor, carried: Tensor, cuts: int) -> Tensor:
    """Float32 [cuts, columns]: statistics of the draft up to each cut, of its segment, of numbers.

    `each` [N, STATISTICS] are those of single tokens, `numbers` bool [N] whether they are digits,
    `segments` int64 [N] the number of the cut that ends a token's segment; a token of segment
    `cuts` counts nowhere. `carried` [SCOPES, STATISTICS] are those of the draft, of the first
    segment and of numbers before these tokens.
    """
    number = torch.arange(cuts, dtype=torch.int64, device=each.device)
    inside = segments[None] == number[:, None]
    sums, least = _within(inside, each)
    own = torch.where((number == 0)[:, None], carried[1:2], 0.0)
    digits = _within(inside & numbers[None], each)
    return torch.cat(
        (
            *_row(*_up_to(sums, least, carried[:1])),
            *_row(sums + own[:, :_SUMS], torch.minimum(least, own[:, _SUMS:])),
            *_row(*_up_to(*digits, carried[2:])),
        ),
        1,
    )


def _within(inside: Tensor, each: Tensor) -> tuple[Tensor, Tensor]:
    """Sums [cuts, _SUMS] and least ones [cuts, 1] of the tokens that are `inside` [cuts, N]."""
    # No matrix product: on CUDA its library would pick a kernel, and an order, by the size.
    sums = torch.where(inside[:, :, None], each[None, :, :_SUMS], 0.0).sum(1)
    return sums, torch.where(inside, each[None, :, _SUMS], 0.0).amin(1, keepdim=True)


def _up_to(sums: Tensor, least: Tensor, carried: Tensor) -> tuple[Tensor, Tensor]:
    """Of all segments up to each, and of what is `carried` [1, STATISTICS]."""
    number = torch.arange(len(sums), dtype=torch.int64, device=sums.device)
    before = number[None] <= number[:, None]
    so_far = torch.where(before, least[None, :, 0], 0.0).amin(1, keepdim=True)
    return sums.cumsum(0) + carried[:, :_SUMS], torch.minimum(so_far, carried[:, _SUMS:])


def _row(sums: Tensor, least: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Statistics as the columns of a scope: with the mean log-likelihood behind them."""
    mean = sums[:, 3:4] / sums[:, :1].clamp(min=1.0)
    return sums, least, mean
