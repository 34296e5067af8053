"""Residual addition and root-mean-square normalization in one kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from foundryc.ranks import Ranks
from parse_runtime.kernels.ranks import summed
from parse_runtime.kernels.rows import STREAMED_ROWS

if TYPE_CHECKING:
    from parse_runtime.kernels.cuda.block_scaled import QuantizedRows
    from parse_runtime.kernels.cuda.shares import Sent


def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    """x / rms(x) * (offset + weight) over the last dimension, in torch.

    The mean square is float32, and with an offset (Gemma) the product is, too.
    """
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    if offset:
        return (wide * (offset + weight.float())).to(x.dtype)
    return weight * wide.to(x.dtype)


def add_rms_norm(
    x: Tensor | Sent, residual: Tensor | None, weight: Tensor, eps: float, offset: float = 0.0,
    ranks: Ranks | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(rms_norm(sum), sum) where sum = residual + x, both [T, H] of the weight's dtype.

    `x` is [T, H], or parts [S, T, H] of `linear_parts`, which are added first. Without a residual
    the sum is x. `offset` is added to the weight. With `ranks` each rank gives a share of x, and
    the sum of all is added; they may have been sent already.
    """
    if not isinstance(x, Tensor):
        from parse_runtime.kernels.cuda.reduce import gather_add_rms_norm

        return gather_add_rms_norm(x, residual, weight, eps, offset)
    if ranks is not None and x.is_cuda:
        from parse_runtime.kernels.cuda.reduce import all_reduce, reduce_add_rms_norm

        if x.shape[-2] <= STREAMED_ROWS:
            return reduce_add_rms_norm(x, residual, weight, eps, offset, ranks)
        x = all_reduce(added(x, weight.dtype), ranks)
    elif ranks is not None:
        x = summed(added(x, weight.dtype), ranks).to(weight.dtype)
    if x.is_cuda:
        from parse_runtime.kernels.cuda.norm import add_rms_norm as kernel

        return kernel(x, residual, weight, eps, offset)
    x = added(x, weight.dtype)
    total = x if residual is None else residual + x
    return rms_norm(total, weight, eps, offset), total


def add_rms_norm_fp8(
    x: Tensor | Sent, residual: Tensor | None, weight: Tensor, eps: float, offset: float,
    ranks: Ranks | None,
) -> tuple[QuantizedRows, Tensor]:  # fmt: skip
    """As `add_rms_norm`, the normalized rows in FP8; on CUDA alone."""
    from parse_runtime.kernels.cuda.block_scaled import quantize_rows
    from parse_runtime.kernels.cuda.norm import add_rms_norm_fp8 as kernel

    if not isinstance(x, Tensor) or (ranks is not None and x.shape[-2] <= STREAMED_ROWS):
        normed, total = add_rms_norm(x, residual, weight, eps, offset, ranks)
        return quantize_rows(normed), total
    if ranks is not None:
        from parse_runtime.kernels.cuda.reduce import all_reduce

        x = all_reduce(added(x, weight.dtype), ranks)
    return kernel(x, residual, weight, eps, offset)


def added(x: Tensor, dtype: torch.dtype) -> Tensor:
    """[T, N] of parts [S, T, N], or x itself."""
    if x.dim() == 2:
        return x
    return x[0] if x.shape[0] == 1 else x.sum(0).to(dtype)
