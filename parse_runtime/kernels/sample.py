"""The next token from logits: greedy, temperature, nucleus; reproducible whatever the batching."""

from __future__ import annotations

import torch
from torch import Tensor

_LARGEST = 0x7FFFFFFF
"""Bits of no probability are larger; those of larger probabilities are."""


def sample(
    logits: Tensor, temperature: Tensor, top_p: Tensor, seeds: Tensor, positions: Tensor
) -> Tensor:
    """Int64 [N]: one token of each row of `logits` [N, V], float32 or bfloat16.

    `positions` int64 [N]; `temperature`, `top_p` float32 and `seeds` int64, [B] each, of which each
    counts for N / B rows in turn. Temperature 0 takes the largest logit, the lowest id on ties.
    Else a draw from p = softmax(logits / temperature), restricted to the nucleus: token t belongs
    to it where the tokens likelier than t weigh less than top_p together, so tokens of equal
    probability stay or go together, and the likeliest always stays (Holtzman et al., arXiv
    1904.09751).

    The draw is the largest of log p + Gumbel noise, and the noise of a token a hash of (seed,
    position, token): the same seed at the same position draws the same token in any batch, and
    in any pass that computes the same logits.
    """
    if logits.is_cuda:
        from parse_runtime.kernels.cuda import sample as kernel

        return kernel.launch(logits, temperature, top_p, seeds, positions)
    each = logits.shape[0] // temperature.shape[0]
    if each > 1:
        temperature, top_p, seeds = (x.repeat_interleave(each) for x in (temperature, top_p, seeds))
    logits, hot = logits.float(), temperature[:, None] > 0
    scores = logits / torch.where(hot, temperature[:, None], 1.0)
    likelihood = scores.softmax(-1)
    least = least_in_nucleus(likelihood, top_p)[:, None]
    noisy = scores + gumbel(seeds, positions, logits.shape[1])
    noisy = noisy.masked_fill(likelihood < least, float("-inf"))
    return torch.where(hot, noisy, logits).argmax(-1)


def sample_and_step(
    logits: Tensor, temperature: Tensor, top_p: Tensor, seeds: Tensor, plan: Tensor, max_len: int
) -> Tensor:
    """As `sample`, of a decode pass with `plan` int64 [5, N], which is moved on to the next step.

    A row becomes that of its sampled token: its position, cache row, cut and start rise by one, up
    to the cache row `max_len`, the padding row. Rows that write there stay as they are: padding,
    and sequences that have reached their end.
    """
    if logits.is_cuda:
        from parse_runtime.kernels.cuda import sample as kernel

        return kernel.launch(logits, temperature, top_p, seeds, plan[1], plan, max_len)
    token = sample(logits, temperature, top_p, seeds, plan[1])
    going = plan[2] < max_len
    plan[0].copy_(torch.where(going, token, plan[0]))
    plan[1:].add_(going)
    return token


def least_in_nucleus(likelihood: Tensor, top_p: Tensor) -> Tensor:
    """Float32 [N]: the least probability of `likelihood` [N, V] that is in the nucleus.

    Without a sort, which would take most of a pass: the bits of probabilities order them. Eight of
    them at a time, from the highest on, are found where `top_p` [N] is reached, the largest first.
    """
    bits = _LARGEST - torch.view_copy(likelihood, torch.int32)
    # Rounded sums may reach 1 before the last token; the likeliest stays even at 0.
    wanted = torch.where(top_p >= 1, 2.0, top_p.clamp(min=1e-30))[:, None]
    found = torch.zeros_like(wanted, dtype=torch.int64)
    before, left = torch.zeros_like(wanted), likelihood
    for shift in (24, 16, 8, 0):
        part = ((bits >> shift) & 0xFF).to(torch.int64)
        mass = likelihood.new_zeros(len(wanted), 256).scatter_add(1, part, left)
        total = before + mass.cumsum(1)
        count = (total < wanted).sum(1, keepdim=True).clamp(max=255)
        before = torch.where(count > 0, total.gather(1, (count - 1).clamp(min=0)), before)
        left = torch.where(part == count, left, 0.0)
        found = (found << 8) | count
    return torch.view_copy((_LARGEST - found).to(torch.int32), torch.float32)[:, 0]


def gumbel(seeds: Tensor, positions: Tensor, vocabulary: int) -> Tensor:
    """Float32 [N, vocabulary] Gumbel noise of rows with `seeds` and `positions`, int64 [N].

    With u = (hash + 1/2) / 2**32 the noise is -log(-log(1 - u)). Large noise comes of small u,
    where the logarithm is replaced by its series: float32 would round 1 - u.
    """
    low = _mix(_mix(seeds.to(torch.int32)) ^ (seeds >> 32).to(torch.int32))
    key = _mix(low ^ positions.to(torch.int32))[:, None]
    ids = torch.arange(vocabulary, dtype=torch.int32, device=seeds.device)
    hashed = _mix(_mix(ids + key) ^ low[:, None])
    # As an unsigned number, rounded once.
    u = (((hashed >> 16) & 0xFFFF).float() * 2.0**16 + (hashed & 0xFFFF).float() + 0.5) * 2.0**-32
    rate = torch.where(u < 2.0**-8, u * (1 + u * (0.5 + u / 3)), -(1 - u).log())
    return -rate.log()


def _mix(x: Tensor) -> Tensor:
    """A 32-bit hash that changes half of the bits when one changes (C. Wellons' lowbias32).

    Of int32, whose products wrap and whose shifts repeat the sign: that is masked away.
    """
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = (x ^ ((x >> 15) & 0x1FFFF)) * (0x846CA68B - (1 << 32))
    return x ^ ((x >> 16) & 0xFFFF)
