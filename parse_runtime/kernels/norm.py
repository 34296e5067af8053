"""Residual addition and root-mean-square normalization in one kernel."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension, in torch; the mean square is float32."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


def add_rms_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """(rms_norm(sum), sum) where sum = residual + x, both [T, H] of the weight's dtype.

    `x` is [T, H], or parts [S, T, H] of `linear_parts`, which are added first. Without a residual
    the sum is x.
    """
    if x.is_cuda:
        from parse_runtime.kernels.cuda.norm import add_rms_norm as kernel

        return kernel(x, residual, weight, eps)
    x = added(x, weight.dtype)
    total = x if residual is None else residual + x
    return rms_norm(total, weight, eps), total


def added(x: Tensor, dtype: torch.dtype) -> Tensor:
    """[T, N] of parts [S, T, N], or x itself."""
    if x.dim() == 2:
        return x
    return x[0] if x.shape[0] == 1 else x.sum(0).to(dtype)
