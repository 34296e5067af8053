"""Query and key norms, rotary embedding and cache write: one program a row and head."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from parse_runtime.kernels.cuda.chain import OPTIONS, opaque, release, side_by_side, wait
from parse_runtime.kernels.cuda.stream import sum_parts


@opaque
def rotate_store(
    qkv: Tensor, positions: Tensor, inverse_frequencies: Tensor, cache_layer: Tensor,
    tables: Tensor, slots: Tensor, rows: Tensor, norms: tuple[Tensor, Tensor] | None, eps: float,
    offset: float = 0.0,
) -> Tensor:  # fmt: skip
    """`parse_runtime.kernels.rotate.rotate_store`."""
    parts = qkv.contiguous() if qkv.dim() == 3 else qkv.contiguous()[None]
    spans, count, width = parts.shape
    block, kv_heads, head_dim = cache_layer.shape[2:]
    heads = width // head_dim - 2 * kv_heads
    q = torch.empty(count, heads, head_dim, dtype=cache_layer.dtype, device=qkv.device)
    positions, slots, rows = side_by_side(positions, slots, rows)
    q_norm, k_norm = norms if norms is not None else (None, None)
    _rotate_store[count, heads + 2 * kv_heads](
        parts, positions, inverse_frequencies, q, cache_layer, tables, slots, rows, q_norm, k_norm,
        eps, offset, heads, kv_heads, count // slots.shape[0], tables.shape[1],
        *cache_layer.stride()[:4],
        BLOCK=block, SPANS=spans, HALF=head_dim // 2,
        WIDTH=triton.next_power_of_2(head_dim // 2), num_warps=1, **OPTIONS,
    )  # fmt: skip
    return q


@triton.jit(do_not_specialize=["length"])
def _rotate_store(
    parts, positions, frequencies, q, cache, tables, slots, rows, q_norm, k_norm, eps, offset,
    heads, kv_heads, length, blocks, kv_stride, block_stride, row_stride, head_stride,
    BLOCK: tl.constexpr, SPANS: tl.constexpr, HALF: tl.constexpr, WIDTH: tl.constexpr,
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
        place = tl.load(rows + row)
        table = tables + tl.load(slots + row // length) * blocks
        block = tl.load(table + place // BLOCK).to(tl.int64)
        value = key // kv_heads
        out = cache + value * kv_stride + (key - value * kv_heads) * head_stride + at
        out += block * block_stride + place % BLOCK * row_stride
    tl.store(out, a, there)
    tl.store(out + HALF, b, there)
