"""What the target's distributions say about drafted tokens, summed up by cut.

Sizes `...` are none, or those of several drafts, each of which is summed up by itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from parse_runtime.kernels.likelihood import token_likelihood
from parse_runtime.signature.evidence import FLOOR, STATISTICS, UNLIKELY

_SUMS = len(STATISTICS) - 1


def log_likelihood(logits: Tensor, tokens: Tensor) -> Tensor:
    """Float32 [N]: log-probability of a token after each row of logits [N, V], at least FLOOR."""
    likelihood = logits.log_softmax(-1, dtype=torch.float32)
    return likelihood.gather(1, tokens[:, None])[:, 0].clamp(min=FLOOR)


def keep_likelihood(likelihood: Tensor, places: Tensor, logits: Tensor, tokens: Tensor) -> None:
    """Put a draft model's log-probability of each sampled token at the row before it.

    `likelihood` is `ModelSignature.likelihood`, `places` int64 [N] are the rows of all slots.
    """
    likelihood.view(-1).index_copy_(0, places, log_likelihood(logits, tokens))


def statistics(logits: Tensor, tokens: Tensor, draft: Tensor) -> Tensor:
    """Float32 [N, STATISTICS] of each drafted token alone.

    `logits` [N, V] are the target's before each token, `draft` [N] the token's log-probability
    under the draft model.
    """
    own, entropy, choices = token_likelihood(logits, tokens, FLOOR)
    unlike = choices != tokens
    unlikely = own.exp() < UNLIKELY
    columns = (torch.ones_like(own), unlike.float(), unlikely.float(), own, entropy, draft, own)
    return torch.stack(columns, 1)


def least_sure(draft: Tensor, segments: Tensor, cuts: int, count: int) -> Tensor:
    """Int64 [..., count]: which of N drafted tokens have the least log-probabilities, `draft`.

    `draft` and `segments` are [..., N].

    Those of segment `cuts`, which count nowhere, come last.
    """
    return torch.where(segments < cuts, draft, 1.0).topk(count, largest=False).indices


def believed(draft: Tensor) -> Tensor:
    """Float32 [..., N, STATISTICS] of tokens with `draft` [..., N], if the target says the same.

    That is: it would have chosen them, as likely, and of nothing else it thinks.
    """
    one, none = torch.ones_like(draft), torch.zeros_like(draft)
    return torch.stack((one, none, none, draft, none, draft, draft), -1)


def by_cut(each: Tensor, numbers: Tensor, segments: Tensor, carried: Tensor, cuts: int) -> Tensor:
    """Float32 [..., cuts, columns]: of a draft up to each cut, of its segment, of numbers.

    `each` [..., N, STATISTICS] are those of single tokens, `numbers` bool [..., N] whether they are
    digits, `segments` int64 [..., N] the number of the cut that ends a token's segment; a token of
    segment `cuts` counts nowhere. `carried` [..., SCOPES, STATISTICS] are those of the draft, of
    the first segment and of numbers before these tokens.
    """
    number = torch.arange(cuts, dtype=torch.int64, device=each.device)
    inside = segments[..., None, :] == number[:, None]
    sums, least = _within(inside, each)
    own = torch.where((number == 0)[:, None], carried[..., 1:2, :], 0.0)
    digits = _within(inside & numbers[..., None, :], each)
    return torch.cat(
        (
            *_row(*_up_to(sums, least, carried[..., :1, :])),
            *_row(sums + own[..., :_SUMS], torch.minimum(least, own[..., _SUMS:])),
            *_row(*_up_to(*digits, carried[..., 2:, :])),
        ),
        -1,
    )


def _within(inside: Tensor, each: Tensor) -> tuple[Tensor, Tensor]:
    """Sums [..., cuts, _SUMS] and least ones [..., cuts, 1] of tokens `inside` [..., cuts, N]."""
    # No matrix product: on CUDA its library would pick a kernel, and an order, by the size.
    sums = torch.where(inside[..., None], each[..., None, :, :_SUMS], 0.0).sum(-2)
    return sums, torch.where(inside, each[..., None, :, _SUMS], 0.0).amin(-1, keepdim=True)


def _up_to(sums: Tensor, least: Tensor, carried: Tensor) -> tuple[Tensor, Tensor]:
    """Of all segments up to each, and of what is `carried` [..., 1, STATISTICS]."""
    number = torch.arange(sums.shape[-2], dtype=torch.int64, device=sums.device)
    before = number[None] <= number[:, None]
    so_far = torch.where(before, least[..., None, :, 0], 0.0).amin(-1, keepdim=True)
    return sums.cumsum(-2) + carried[..., :_SUMS], torch.minimum(so_far, carried[..., _SUMS:])


def _row(sums: Tensor, least: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Statistics as the columns of a scope: with the mean log-likelihood behind them."""
    mean = sums[..., 3:4] / sums[..., :1].clamp(min=1.0)
    return sums, least, mean


def verdicts(evidence: Tensor, score: Tensor) -> Tensor:
    """Float32 [D, cuts]: the logistic function of the score of each row of `evidence` of D drafts.

    `score` [D, EVIDENCE + 1] has the weights and the offset. By two logits of which one is 0: so
    the log-odds alone give the very bits of the softmax that they are of.
    """
    total = (evidence * score[:, None, :-1]).sum(-1) + score[:, None, -1]
    return torch.stack((total, torch.zeros_like(total)), -1).softmax(-1)[..., 0].contiguous()
