"""Weights in FP8 by blocks, made of others, and what they are in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from parse_runtime.kernels.quantized import BLOCK, Quantized

LARGEST = torch.finfo(torch.float8_e4m3fn).max


def quantize(weight: Tensor) -> Quantized:
    """A weight [..., N, K] in float8_e4m3fn: the largest of a block is the largest there is."""
    n, k = weight.shape[-2:]
    rows, columns = -(-n // BLOCK), -(-k // BLOCK)
    filled = torch.nn.functional.pad(weight, (0, columns * BLOCK - k, 0, rows * BLOCK - n))
    blocks = filled.unflatten(-1, (columns, BLOCK)).unflatten(-3, (rows, BLOCK))
    largest = blocks.abs().amax((-3, -1)).float()
    # Some checkpoints store scales in bfloat16.
    scale = (largest.clamp(min=1e-12) / LARGEST).bfloat16().float()
    values = (weight / spread(scale, n, k)).clamp(-LARGEST, LARGEST)
    return Quantized(values.to(torch.float8_e4m3fn), scale)


def exact(weight: Quantized) -> Tensor:
    """Float64 [..., N, K]."""
    return weight.values.double() * spread(weight.scale.double(), *weight.values.shape[-2:])


def spread(scale: Tensor, n: int, k: int) -> Tensor:
    """The scale of every value [..., n, k]."""
    wide = scale.repeat_interleave(BLOCK, -2).repeat_interleave(BLOCK, -1)
    return wide[..., :n, :k]


def rows_like(count: int, k: int) -> list[Tensor]:
    """Rows [count, k]: usual ones, with outliers, small, zeros, the largest, not finite."""
    x = torch.randn(count, k)
    outliers = x * torch.where(torch.rand(count, k) < 0.01, 1000.0, 1.0)
    small = x * 10.0 ** -torch.randint(1, 45, (count, k)).float()
    broken = x.clone()
    broken[-1, k // 2], broken[0, 0] = torch.nan, torch.inf
    largest = torch.full((count, k), torch.finfo(torch.bfloat16).max)
    return [x, outliers, small, torch.zeros(count, k), largest, broken]


def exact_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """What rows [..., K] in FP8 stand for, and the scale of every value, in float64."""
    *outer, k = x.shape
    filled = torch.nn.functional.pad(x.double(), (0, -k % BLOCK))
    groups = filled.view(*outer, filled.shape[-1] // BLOCK, BLOCK)
    scale = groups.abs().amax(-1, keepdim=True).clamp(min=1e-30) / LARGEST
    values = (groups / scale).to(torch.float8_e4m3fn).double() * scale
    wide = scale.expand_as(groups)
    return values.view(filled.shape)[..., :k], wide.reshape(filled.shape)[..., :k]
