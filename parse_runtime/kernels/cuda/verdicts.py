"""Verdicts and the kept cut of a draft: one program for all of it; a word's logit: one each."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from parse_runtime.kernels.cuda.chain import OPTIONS, opaque, release, side_by_side, wait
from parse_runtime.kernels.verdicts import FIRST_FAILURE

BLOCK = 1024
"""Columns that a program of `unrounded` reads at a time."""
_FIRST_FAILURE = tl.constexpr(FIRST_FAILURE)


@opaque
def launch(
    evidence: Tensor, score: Tensor | None, count: Tensor, threshold: Tensor, rule: Tensor
) -> tuple[Tensor, Tensor]:
    """`parse_runtime.kernels.verdicts.judged`."""
    drafts, cuts, columns = evidence.shape
    verdicts = torch.empty(drafts, cuts, dtype=torch.float32, device=evidence.device)
    kept = torch.empty_like(count)
    _judge[(drafts,)](
        *side_by_side(evidence), None if score is None else score.contiguous(),
        *side_by_side(count, threshold, rule), verdicts, kept, cuts, columns,
        CUTS=triton.next_power_of_2(cuts), COLUMNS=triton.next_power_of_2(columns), num_warps=1,
        **OPTIONS,
    )  # fmt: skip
    return verdicts, kept


@opaque
def launch_unrounded(x: Tensor, weight: Tensor) -> Tensor:
    """`parse_runtime.kernels.verdicts.unrounded`."""
    count, width = x.shape
    found = torch.empty(count, weight.shape[0], dtype=torch.float32, device=x.device)
    _unrounded[count, weight.shape[0]](
        x.contiguous(), weight.contiguous(), found, width, BLOCK=BLOCK, num_warps=4, **OPTIONS
    )
    return found


@triton.jit
def _unrounded(x, weight, found, width, BLOCK: tl.constexpr):
    release()
    wait()
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, width, BLOCK):
        at = first + tl.arange(0, BLOCK)
        a = tl.load(x + row * width + at, at < width, other=0.0).to(tl.float32)
        b = tl.load(weight + column * width + at, at < width, other=0.0).to(tl.float32)
        total += a * b
    tl.store(found + row * tl.num_programs(1) + column, tl.sum(total, 0))


@triton.jit(do_not_specialize=["score", "count", "threshold", "rule", "cuts"])
def _judge(
    evidence, score, count, threshold, rule, verdicts, kept, cuts, columns,
    CUTS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    release()
    wait()
    draft, cut = tl.program_id(0), tl.arange(0, CUTS)
    there = cut < cuts
    evidence += (draft * cuts + cut) * columns
    if score is None:
        yes, no = tl.load(evidence, there, other=0.0), tl.load(evidence + 1, there, other=0.0)
    else:
        column = tl.arange(0, COLUMNS)
        within = column < columns
        weight = tl.load(score + draft * (columns + 1) + column, within, other=0.0)
        each = there[:, None] & within[None, :]
        known = tl.load(evidence[:, None] + column[None, :], each, other=0.0)
        yes = tl.sum(known * weight[None, :], 1)
        yes += tl.load(score + draft * (columns + 1) + columns)
        no = yes * 0
    most = tl.maximum(yes, no)
    likelihood = tl.exp(yes - most)
    verdict = likelihood / (likelihood + tl.exp(no - most))
    tl.store(verdicts + draft * cuts + cut, verdict, there)
    meant = there & (cut < tl.load(count + draft))
    passed = meant & (verdict >= tl.load(threshold + draft))
    # Numbers count from 1: the last before the first that does not pass, or the last that does.
    first = tl.min(tl.where(passed, CUTS, cut), 0)
    last = tl.max(tl.where(passed, cut + 1, 0), 0)
    found = tl.where(tl.load(rule + draft) == _FIRST_FAILURE, first, last)
    tl.store(kept + draft, found.to(tl.int64))
