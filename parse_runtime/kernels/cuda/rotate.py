"""Query and key norms, rotary embedding and cache write: one program a row and some heads."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from parse_runtime.kernels.cuda.chain import OPTIONS, opaque, release, side_by_side, wait
from parse_runtime.kernels.cuda.rotate_group import rotate_groups, row_place
from parse_runtime.kernels.cuda.stream import sum_parts
from parse_runtime.kernels.rows import STREAMED_ROWS

TOGETHER = 16
"""Heads of a program."""


@opaque
def rotate_store(
    qkv: Tensor, positions: Tensor, inverse_frequencies: Tensor, cache_layer: Tensor,
    tables: Tensor, slots: Tensor, rows: Tensor, norms: tuple[Tensor, Tensor] | None, eps: float,
    offset: float = 0.0,
) -> Tensor:  # fmt: skip
    """`parse_runtime.kernels.rotate.rotate_store`."""
    if qkv.shape[-2] <= STREAMED_ROWS:
        return rotate_groups(
            qkv, positions, inverse_frequencies, cache_layer, tables, slots, rows, norms, eps,
            offset,
        )  # fmt: skip
    parts = qkv.contiguous() if qkv.dim() == 3 else qkv.contiguous()[None]
    spans, count, width = parts.shape
    block, kv_heads, head_dim = cache_layer.shape[2:]
    heads = width // head_dim - 2 * kv_heads
    q = torch.empty(count, heads, head_dim, dtype=cache_layer.dtype, device=qkv.device)
    positions, slots, rows = side_by_side(positions, slots, rows)
    q_norm, k_norm = norms if norms is not None else (None, None)
    _rotate_store[count, triton.cdiv(heads + 2 * kv_heads, TOGETHER)](
        parts, positions, inverse_frequencies, q, cache_layer, tables, slots, rows, q_norm, k_norm,
        eps, offset, heads, kv_heads, count // slots.shape[0], tables.shape[1],
        *cache_layer.stride()[:4],
        BLOCK=block, SPANS=spans, HALF=head_dim // 2,
        WIDTH=triton.next_power_of_2(head_dim // 2), HEADS=TOGETHER, num_warps=2, **OPTIONS,
    )  # fmt: skip
    return q


@triton.jit(do_not_specialize=["length"])
def _rotate_store(
    parts, positions, frequencies, q, cache, tables, slots, rows, q_norm, k_norm, eps, offset,
    heads, kv_heads, length, table_blocks, kv_stride, block_stride, row_stride, head_stride,
    BLOCK: tl.constexpr, SPANS: tl.constexpr, HALF: tl.constexpr, WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
):  # fmt: skip
    release()
    row, head = tl.program_id(0), tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    every, key = heads + 2 * kv_heads, head - heads
    at = tl.arange(0, WIDTH)
    within = at < HALF
    there = (head < every)[:, None] & within[None, :]
    turned = (key < kv_heads)[:, None]
    wait()
    width = every * 2 * HALF
    parts += row.to(tl.int64) * width + head[:, None] * 2 * HALF + at[None, :]
    stride = tl.num_programs(0) * width
    a = sum_parts(parts, there, stride, SPANS)
    b = sum_parts(parts + HALF, there, stride, SPANS)
    if q_norm is not None:
        square = tl.sum(a * a, 1) + tl.sum(b * b, 1)
        scale = tl.rsqrt(square / (2 * HALF) + eps)[:, None]
        query = (key < 0)[:, None]
        a *= tl.where(turned, scale * _weight(q_norm, k_norm, query, at, within, offset), 1.0)
        at += HALF
        b *= tl.where(turned, scale * _weight(q_norm, k_norm, query, at, within, offset), 1.0)
        at -= HALF
    angle = tl.load(positions + row).to(tl.float32) * tl.load(frequencies + at, within, other=0)
    cosine = tl.where(turned, tl.cos(angle)[None, :], 1.0)
    sine = tl.where(turned, tl.sin(angle)[None, :], 0.0)
    a, b = a * cosine - b * sine, b * cosine + a * sine
    out = q + (row.to(tl.int64) * heads + head[:, None]) * 2 * HALF + at[None, :]
    own = there & (key < 0)[:, None]
    tl.store(out, a, own)
    tl.store(out + HALF, b, own)
    value = key // kv_heads
    table = tables + tl.load(slots + row // length) * table_blocks
    out = cache + row_place(table, tl.load(rows + row), block_stride, row_stride, BLOCK)
    out += at[None, :]
    out += (value * kv_stride + (key - value * kv_heads) * head_stride)[:, None]
    own = there & (key >= 0)[:, None]
    tl.store(out, a, own)
    tl.store(out + HALF, b, own)


@triton.jit
def _weight(q_norm, k_norm, query, at, within, offset):
    """The norm's weight [HEADS, WIDTH], of queries or of keys."""
    q = tl.load(q_norm + at, within, other=0.0).to(tl.float32)[None, :]
    k = tl.load(k_norm + at, within, other=0.0).to(tl.float32)[None, :]
    return tl.where(query, q, k) + offset
