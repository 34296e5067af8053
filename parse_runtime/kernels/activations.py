"""Rows in FP8 for products with weights in FP8: e4m3, with a scale for each BLOCK columns of a row.

As the checkpoints' `activation_scheme: dynamic`, and as DeepSeek-V3 (arXiv 2412.19437, section
3.3). A row's scales depend on that row alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor

from parse_runtime.kernels.quantized import BLOCK, Quantized, Weight

LARGEST, SMALLEST = 448.0, 1e-30
"""The largest e4m3 value; groups whose magnitudes are all below SMALLEST have the scale of that."""
_ON: ContextVar[bool] = ContextVar("rows are rounded to FP8, too", default=False)


@contextmanager
def fp8_activations(on: bool) -> Iterator[None]:
    """Within it, rows are rounded to FP8 where they are multiplied by weights in FP8."""
    token = _ON.set(on)
    try:
        yield
    finally:
        _ON.reset(token)


def rounds_rows(weight: Weight) -> TypeGuard[Quantized]:
    """Whether rows are rounded to FP8 before they are multiplied by this weight."""
    return isinstance(weight, Quantized) and _ON.get()


def rounded(x: Tensor) -> Tensor:
    """Float32 [..., K] that rows x [..., K] in FP8 stand for, in torch.

    Each value is the nearest e4m3 multiple of its group's scale, max |x| / LARGEST: off by at most
    2**-4 of itself, or 2**-10 of the scale where that is more. A NaN or an infinity gives NaN.
    """
    *outer, width = x.shape
    filled = F.pad(x.float(), (0, -width % BLOCK))
    groups = filled.view(*outer, filled.shape[-1] // BLOCK, BLOCK)
    largest = groups.abs().amax(-1, keepdim=True).clamp(min=SMALLEST)
    # Of a number over a tensor torch makes a product with the reciprocal, rounded twice.
    factor = torch.full_like(largest, LARGEST) / largest
    values = (groups * factor).to(torch.float8_e4m3fn).float()
    return (values * (largest / LARGEST)).view(filled.shape)[..., :width]
