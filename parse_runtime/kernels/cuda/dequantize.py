"""A matrix in FP8 as a plain one, for products that the library computes."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from parse_runtime.kernels.cuda.chain import OPTIONS, opaque, release, wait
from parse_runtime.kernels.quantized import BLOCK


@opaque
def dequantize(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """`parse_runtime.kernels.quantized.plain` of values [N, K]."""
    n, k = values.shape
    out = torch.empty(n, k, dtype=dtype, device=values.device)
    _dequantize[triton.cdiv(n, 32), scale.shape[1]](
        values, scale, out, n, k, ROWS=32, BLOCK=BLOCK, **OPTIONS
    )
    return out


@triton.jit
def _dequantize(values, scale, out, n, k, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    release()
    wait()
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = (row < n)[:, None] & (column < k)[None, :]
    at = row.to(tl.int64)[:, None] * k + column[None, :]
    block = tl.program_id(0) * ROWS // BLOCK * tl.num_programs(1) + tl.program_id(1)
    tile = tl.load(values + at, there, other=0.0).to(tl.float32)
    tl.store(out + at, tile * tl.load(scale + block), there)
