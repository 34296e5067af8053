"""Residual addition and root-mean-square normalization: one program a row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from parse_runtime.kernels.cuda.chain import OPTIONS, opaque, release, wait
from parse_runtime.kernels.cuda.stream import sum_parts


@opaque
def add_rms_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    """`parse_runtime.kernels.norm.add_rms_norm`."""
    parts = x.contiguous() if x.dim() == 3 else x.contiguous()[None]
    spans, count, width = parts.shape
    normed = torch.empty(count, width, dtype=weight.dtype, device=x.device)
    total = torch.empty_like(normed)
    if residual is not None:
        residual = residual.contiguous()
    block = triton.next_power_of_2(width)
    _add_rms_norm[(count,)](
        parts, residual, weight, normed, total, width, eps, offset,
        SPANS=spans, BLOCK=block, num_warps=min(16, max(1, block // 256)), **OPTIONS,
    )  # fmt: skip
    return normed, total


@triton.jit
def _add_rms_norm(
    parts, residual, weight, normed, total, width, eps, offset,
    SPANS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    release()
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    there = at < width
    scale = tl.load(weight + at, there, other=0.0).to(tl.float32) + offset
    wait()
    here = row * width + at
    x = sum_parts(parts + here, there, tl.num_programs(0) * width, SPANS)
    if residual is not None:
        x += tl.load(residual + here, there, other=0.0).to(tl.float32)
    x = x.to(total.dtype.element_ty)
    tl.store(total + here, x, there)
    wide = x.to(tl.float32)
    wide *= tl.rsqrt(tl.sum(wide * wide, 0) / width + eps)
    tl.store(normed + here, wide * scale, there)
