"""Query and key norms, rotary embedding and cache write: one program a row and head."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from parse_runtime.kernels.cuda.chain import OPTIONS, opaque, release, side_by_side, wait
from parse_runtime.kernels.cuda.rotate_group import rotate_groups
from parse_runtime.kernels.cuda.stream import sum_parts
from parse_runtime.kernels.streamed import STREAMED_ROWS


@opaque
def rotate_store(
    qkv: Tensor, positions: Tensor, inverse_frequencies: Tensor, cache_layer: Tensor,
    write: Tensor, norms: tuple[Tensor, Tensor] | None, eps: float, offset: float = 0.0,
) -> Tensor:  # fmt: skip
    """`parse_runtime.kernels.rotate.rotate_store`."""
    if qkv.shape[-2] <= STREAMED_ROWS:
        return rotate_groups(
            qkv, positions, inverse_frequencies, cache_layer, write, norms, eps, offset
        )
    parts = qkv.contiguous() if qkv.dim() == 3 else qkv.contiguous()[None]
    spans, count, width = parts.shape
    kv_heads, head_dim = cache_layer.shape[1], cache_layer.shape[4]
    heads = width // head_dim - 2 * kv_heads
    q = torch.empty(count, heads, head_dim, dtype=cache_layer.dtype, device=qkv.device)
    positions, write = side_by_side(positions, write)
    q_norm, k_norm = norms if norms is not None else (None, None)
    _rotate_store[count, heads + 2 * kv_heads](
        parts, positions, inverse_frequencies, q, cache_layer, write, q_norm, k_norm, eps, offset,
        heads, kv_heads,
        cache_layer.stride(0), cache_layer.stride(1), cache_layer.stride(3),
        SPANS=spans, HALF=head_dim // 2, WIDTH=triton.next_power_of_2(head_dim // 2),
        num_warps=1, **OPTIONS,
    )  # fmt: skip
    return q


@triton.jit
def _rotate_store(
    parts, positions, frequencies, q, cache, write, q_norm, k_norm, eps, offset,
    heads, kv_heads, kv_stride, head_stride, row_stride,
    SPANS: tl.constexpr, HALF: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    release()
    row, head = tl.program_id(0), tl.program_id(1)
    at = tl.arange(0, WIDTH)
    there = at < HALF
    wait()
    width = tl.num_programs(1) * 2 * HALF
    parts += row.to(tl.int64) * width + head * 2 * HALF + at
    stride = tl.num_programs(0) * width
    a = sum_parts(parts, there, stride, SPANS)
    b = sum_parts(parts + HALF, there, stride, SPANS)
    key = head - heads
    if key < kv_heads:
        if q_norm is not None:
            norm = (q_norm if key < 0 else k_norm) + at
            square = tl.sum(a * a, 0) + tl.sum(b * b, 0)
            scale = tl.rsqrt(square / (2 * HALF) + eps)
            a *= scale * (tl.load(norm, there, other=0.0).to(tl.float32) + offset)
            b *= scale * (tl.load(norm + HALF, there, other=0.0).to(tl.float32) + offset)
        angle = tl.load(positions + row).to(tl.float32) * tl.load(frequencies + at, there, other=0)
        cosine, sine = tl.cos(angle), tl.sin(angle)
        a, b = a * cosine - b * sine, b * cosine + a * sine
    if key < 0:
        out = q + (row.to(tl.int64) * heads + head) * 2 * HALF + at
    else:
        value = key // kv_heads
        out = cache + value * kv_stride + (key - value * kv_heads) * head_stride + at
        out += tl.load(write + row) * row_stride
    tl.store(out, a, there)
    tl.store(out + HALF, b, there)
