"""Weights in FP8 with a scale for each block, as they are stored and as plain tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 128
"""Rows, and columns, that share a scale."""


@dataclass(frozen=True)
class Quantized:
    """A weight [..., N, K]: `values` in float8_e4m3fn, each times the scale of its block.

    `scale` is float32 [..., ceil(N / BLOCK), ceil(K / BLOCK)]. Where N is two halves (gates and
    values), the second begins with a block.
    """

    values: Tensor
    scale: Tensor


Weight = Tensor | Quantized


def weight_of(parameters: Mapping[str, Tensor], name: str) -> Weight:
    """A weight by its name; it is quantized where `<name>_scale` is there, too."""
    scale = parameters.get(f"{name}_scale")
    return parameters[name] if scale is None else Quantized(parameters[name], scale)


def split(weight: Weight) -> tuple[Tensor, Tensor | None]:
    """Values and scale, which a plain weight has none of."""
    return (weight, None) if isinstance(weight, Tensor) else (weight.values, weight.scale)


def plain(weight: Weight, dtype: torch.dtype) -> Tensor:
    """A plain weight as it is; a quantized one dequantized, multiplied in float32, in `dtype`.

    On CUDA quantized weights are matrices [N, K].
    """
    if isinstance(weight, Tensor):
        return weight
    values, scale = weight.values, weight.scale
    if values.is_cuda:
        from parse_runtime.kernels.cuda.dequantize import dequantize

        return dequantize(values, scale, dtype)
    *outer, rows, columns = scale.shape
    wide = scale[..., :, None, :, None].expand(*outer, rows, BLOCK, columns, BLOCK)
    wide = wide.reshape(*outer, rows * BLOCK, columns * BLOCK)
    n, k = values.shape[-2:]
    return (values.to(torch.float32) * wide[..., :n, :k]).to(dtype)
