"""Residual addition and root-mean-square normalization: one program a row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from parse_runtime.kernels.cuda.block_scaled import QuantizedRows, to_fp8
from parse_runtime.kernels.cuda.chain import OPTIONS, opaque, release, wait
from parse_runtime.kernels.cuda.early import append
from parse_runtime.kernels.cuda.stream import sum_parts
from parse_runtime.kernels.cuda.tiles import HELD_DEPTH
from parse_runtime.kernels.quantized import BLOCK

CHUNK, NARROW = HELD_DEPTH, 1024
"""A row up to NARROW is read in chunks, an element a thread: as products do that normalize one."""


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
    if width % CHUNK == 0 and width <= NARROW:
        _add_rms_norm_narrow[(count,)](
            parts, residual, weight, normed, total, eps, offset,
            WIDTH=width, PARTS=spans, CHUNK=CHUNK, CHUNKS=width // CHUNK, num_warps=4, **OPTIONS,
        )  # fmt: skip
        return normed, total
    block = triton.next_power_of_2(width)
    _add_rms_norm[(count,)](
        parts, residual, weight, normed, None, total, width, eps, offset,
        SPANS=spans, BLOCK=block, GROUP=BLOCK, num_warps=min(16, max(1, block // 256)), **OPTIONS,
    )  # fmt: skip
    return normed, total


@opaque
def add_rms_norm_fp8(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, offset: float = 0.0
) -> tuple[QuantizedRows, Tensor]:
    """As `add_rms_norm`; what is normalized is rounded to the weight's type, and then to FP8."""
    parts = x.contiguous() if x.dim() == 3 else x.contiguous()[None]
    spans, count, width = parts.shape
    total = torch.empty(count, width, dtype=weight.dtype, device=x.device)
    rows = QuantizedRows.empty(count, width, total)
    if residual is not None:
        residual = residual.contiguous()
    block = max(BLOCK, triton.next_power_of_2(width))
    _add_rms_norm[(count,)](
        parts, residual, weight, rows.values, rows.scale, total, width, eps, offset,
        SPANS=spans, BLOCK=block, GROUP=BLOCK, num_warps=min(16, max(1, block // 256)), **OPTIONS,
    )  # fmt: skip
    return rows, total


@triton.jit
def _add_rms_norm(
    parts, residual, weight, normed, scales, total, width, eps, offset,
    SPANS: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr,
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
    if scales is None:
        tl.store(normed + here, wide * scale, there)
    else:
        groups = (wide * scale).to(total.dtype.element_ty).to(tl.float32)
        values, factors = to_fp8(groups.reshape(BLOCK // GROUP, GROUP))
        tl.store(normed + here, values.reshape(BLOCK), there)
        group = tl.arange(0, BLOCK // GROUP)
        to = scales + group.to(tl.int64) * tl.num_programs(0) + row
        tl.store(to, factors, group * GROUP < width)


@triton.jit
def _add_rms_norm_narrow(
    parts, residual, weight, normed, total, eps, offset,
    WIDTH: tl.constexpr, PARTS: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    release()
    scales = norm_scales(weight, offset, CHUNK, CHUNKS)
    wait()
    row = tl.program_id(0).to(tl.int64) * WIDTH
    before = residual
    if residual is not None:
        before = residual + row
    stride = tl.num_programs(0) * WIDTH
    xs, ys = normed_row(parts + row, before, scales, total, eps, stride, PARTS, CHUNK, CHUNKS)
    for chunk in tl.static_range(CHUNKS):
        at = row + chunk * CHUNK + tl.arange(0, CHUNK)
        tl.store(total + at, xs[chunk])
        tl.store(normed + at, ys[chunk])


@triton.jit
def norm_scales(weight, offset, CHUNK: tl.constexpr, CHUNKS: tl.constexpr):
    """What a row's chunks are multiplied by."""
    scales = ()
    for chunk in tl.static_range(CHUNKS):
        scale = tl.load(weight + chunk * CHUNK + tl.arange(0, CHUNK))
        scales = append(scales, scale.to(tl.float32) + offset)
    return scales


@triton.jit
def normed_row(
    parts, residual, scales, total, eps, stride,
    PARTS: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """Chunks of a row's sum, and of that normalized, both as `total` has them.

    The same bits in every kernel of as many warps: nothing is left to the compiler's order.
    """
    xs, squares = (), tl.zeros((CHUNK,), tl.float32)
    for chunk in tl.static_range(CHUNKS):
        at = chunk * CHUNK + tl.arange(0, CHUNK)
        x = sum_parts(parts + at, None, stride, PARTS)
        if residual is not None:
            x += tl.load(residual + at).to(tl.float32)
        x = x.to(total.dtype.element_ty)
        xs = append(xs, x)
        squares = tl.fma(x.to(tl.float32), x.to(tl.float32), squares)
    factor = tl.rsqrt(tl.fma(tl.sum(squares, 0), 1.0 / (CHUNK * CHUNKS), eps))
    ys = ()
    for chunk in tl.static_range(CHUNKS):
        y = xs[chunk].to(tl.float32) * factor * scales[chunk]
        ys = append(ys, y.to(total.dtype.element_ty))
    return xs, ys
