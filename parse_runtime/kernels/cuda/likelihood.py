"""Log-probability, entropy and argmax of a row of logits: one program a row, which reads it twice.

The second time it comes from the second-level cache. Nothing of the size of the logits is written.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from parse_runtime.kernels.cuda.chain import OPTIONS, opaque, release, wait

BLOCK, WARPS = 4096, 8


@opaque
def launch(logits: Tensor, tokens: Tensor, floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """`parse_runtime.kernels.likelihood.token_likelihood`."""
    count, vocabulary = logits.shape
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    own, entropy = (torch.empty(count, dtype=torch.float32, device=logits.device) for _ in range(2))
    choices = torch.empty(count, dtype=torch.int64, device=logits.device)
    _likelihood[(count,)](
        logits, tokens.contiguous(), own, entropy, choices, floor, logits.stride(0), vocabulary,
        BLOCK=BLOCK, num_warps=WARPS, **OPTIONS,
    )  # fmt: skip
    return own, entropy, choices


@triton.jit
def _likelihood(
    logits, tokens, own, entropy, choices, floor, stride, vocabulary, BLOCK: tl.constexpr
):  # fmt: skip
    release()
    wait()
    row = tl.program_id(0)
    logits += row.to(tl.int64) * stride
    at = tl.arange(0, BLOCK)
    tops = tl.full((BLOCK,), float("-inf"), tl.float32)
    places = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, vocabulary, BLOCK):
        there = first + at < vocabulary
        x = tl.load(logits + first + at, there, other=float("-inf")).to(tl.float32)
        places = tl.where(x > tops, first + at, places)
        tops = tl.maximum(tops, x)
    top = tl.max(tops, 0)
    tl.store(choices + row, tl.min(tl.where(tops == top, places, vocabulary), 0).to(tl.int64))
    totals = tl.zeros((BLOCK,), tl.float32)
    weighed = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, vocabulary, BLOCK):
        there = first + at < vocabulary
        x = tl.load(logits + first + at, there, other=0.0).to(tl.float32)
        below = tl.maximum(x - top, floor)
        weight = tl.where(there, tl.exp(below), 0.0)
        totals += weight
        weighed += weight * below
    total = tl.sum(totals, 0)
    log_total = tl.log(total)
    tl.store(entropy + row, log_total - tl.sum(weighed, 0) / total)
    x = tl.load(logits + tl.load(tokens + row)).to(tl.float32)
    tl.store(own + row, tl.maximum(tl.maximum(x - top, floor) - log_total, floor))
