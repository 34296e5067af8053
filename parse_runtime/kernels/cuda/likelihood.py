"""Log-probability, entropy and argmax of a row of logits: one program a row, which reads it twice.

The second time it comes from the second-level cache. Nothing of the size of the logits is written.
Where the log-probability alone is asked for, many programs read a row once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from parse_runtime.kernels.cuda.chain import OPTIONS, opaque, release, side_by_side, wait

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


@opaque
def launch_keep(kept: Tensor, places: Tensor, logits: Tensor, tokens: Tensor, floor: float) -> None:
    """`parse_runtime.kernels.likelihood.keep_likelihood`: of each row many programs, then one."""
    count, vocabulary = logits.shape
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    chunks = triton.cdiv(vocabulary, BLOCK)
    sums = torch.empty(2, count, chunks, dtype=torch.float32, device=logits.device)
    _weigh_chunk[chunks, count](
        logits, sums, logits.stride(0), vocabulary, BLOCK=BLOCK, num_warps=WARPS, **OPTIONS
    )
    _keep[(count,)](
        kept, *side_by_side(places, tokens), logits, sums, floor, logits.stride(0), chunks,
        CHUNKS=triton.next_power_of_2(chunks), num_warps=1, **OPTIONS,
    )  # fmt: skip


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


@triton.jit
def _weigh_chunk(logits, sums, stride, vocabulary, BLOCK: tl.constexpr):
    """A chunk's largest logit, and its weight exp(logit - largest)."""
    release()
    wait()
    chunk, row = tl.program_id(0), tl.program_id(1)
    at = chunk * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(logits + row.to(tl.int64) * stride + at, at < vocabulary, other=float("-inf"))
    x = x.to(tl.float32)
    top = tl.max(x, 0)
    place = sums + row * tl.num_programs(0) + chunk
    tl.store(place, top)
    weight = tl.sum(tl.where(at < vocabulary, tl.exp(x - top), 0.0), 0)
    tl.store(place + tl.num_programs(0) * tl.num_programs(1), weight)


@triton.jit(do_not_specialize=["places", "tokens"])
def _keep(kept, places, tokens, logits, sums, floor, stride, chunks, CHUNKS: tl.constexpr):
    release()
    wait()
    row, chunk = tl.program_id(0), tl.arange(0, CHUNKS)
    sums += row * chunks + chunk
    top = tl.load(sums, chunk < chunks, other=float("-inf"))
    weight = tl.load(sums + tl.num_programs(0) * chunks, chunk < chunks, other=0.0)
    most = tl.max(top, 0)
    total = tl.sum(weight * tl.exp(top - most), 0)
    x = tl.load(logits + row.to(tl.int64) * stride + tl.load(tokens + row)).to(tl.float32)
    own = x - most - tl.log(total)
    own = tl.where(own < floor, floor, own)  # a NaN stays
    tl.store(kept + tl.load(places + row), own)
