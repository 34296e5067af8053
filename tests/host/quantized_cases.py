"""Weights in FP8 by blocks, made of others, and what they are in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from parse_runtime.kernels.quantized import BLOCK, Quantized


def quantize(weight: Tensor) -> Quantized:
    """A weight [..., N, K] whose largest values of each block are float8_e4m3fn's largest."""
    n, k = weight.shape[-2:]
    rows, columns = -(-n // BLOCK), -(-k // BLOCK)
    filled = torch.nn.functional.pad(weight, (0, columns * BLOCK - k, 0, rows * BLOCK - n))
    blocks = filled.unflatten(-1, (columns, BLOCK)).unflatten(-3, (rows, BLOCK))
    largest = blocks.abs().amax((-3, -1)).float()
    scale = largest.clamp(min=1e-12) / torch.finfo(torch.float8_e4m3fn).max
    values = (weight / spread(scale, n, k)).to(torch.float8_e4m3fn)
    return Quantized(values, scale)


def exact(weight: Quantized) -> Tensor:
    """Float64 [..., N, K]."""
    return weight.values.double() * spread(weight.scale.double(), *weight.values.shape[-2:])


def spread(scale: Tensor, n: int, k: int) -> Tensor:
    """The scale of every value [..., n, k]."""
    wide = scale.repeat_interleave(BLOCK, -2).repeat_interleave(BLOCK, -1)
    return wide[..., :n, :k]
