"""Products with a weight matrix: for few rows, streamed at the memory's bandwidth."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from parse_runtime.kernels.activations import rounded, rounds_rows
from parse_runtime.kernels.quantized import Quantized, Weight, plain
from parse_runtime.kernels.streamed import holds, streams


def linear(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """x [T, K] times weight [N, K] transposed, plus bias [N]: [T, N] of x's dtype.

    On CUDA, up to STREAMED_ROWS rows, a row's result depends on that row alone, bit for bit,
    not on T; it is summed in float32. A quantized weight is read as it is there; elsewhere it is
    dequantized first, and so rounded to x's dtype. Within `fp8_activations` x is rounded to FP8
    where the weight is quantized.
    """
    if rounds_rows(weight):
        return _in_fp8(x, weight, bias)
    if streams(x):
        from parse_runtime.kernels.cuda.stream import stream

        return stream(x, weight, bias)
    return F.linear(x, plain(weight, x.dtype), bias)


def linear_parts(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """As `linear`, but [S, T, N] whose sum over S is the product.

    A narrow matrix is streamed by several blocks along K; the kernel that reads the product next
    (`add_rms_norm`, `rotate_store`) adds their float32 sums, and so no launch is spent on it.
    Elsewhere S is 1 and the dtype is x's.
    """
    if rounds_rows(weight):
        return _in_fp8(x, weight, bias)[None]
    if holds(x):
        from parse_runtime.kernels.cuda.held import held_product

        held = held_product(x, weight, bias)
        if held is not None:
            return held
    if streams(x):
        from parse_runtime.kernels.cuda.stream import stream_parts

        return stream_parts(x, weight, bias)
    return F.linear(x, plain(weight, x.dtype), bias)[None]


def _in_fp8(x: Tensor, weight: Quantized, bias: Tensor | None) -> Tensor:
    """The product of x, rounded to FP8, summed in float32."""
    if x.is_cuda:
        from parse_runtime.kernels.cuda.block_scaled import block_scaled

        return block_scaled(x, weight, bias)
    product = F.linear(rounded(x), plain(weight, torch.float32))
    return (product if bias is None else product + bias.float()).to(x.dtype)
