"""Rotary embedding of few rows, a program a row and key head: alone, or where attention begins."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from parse_runtime.kernels.cuda.chain import OPTIONS, release, side_by_side, wait
from parse_runtime.kernels.cuda.stream import sum_parts


def rotate_groups(
    qkv: Tensor, positions: Tensor, inverse_frequencies: Tensor, cache_layer: Tensor,
    tables: Tensor, slots: Tensor, rows: Tensor, norms: tuple[Tensor, Tensor] | None, eps: float,
    offset: float,
) -> Tensor:  # fmt: skip
    """`parse_runtime.kernels.rotate.rotate_store`."""
    parts, group, q = prepared(qkv, cache_layer)
    positions, slots, rows = side_by_side(positions, slots, rows)
    q_norm, k_norm = norms if norms is not None else (None, None)
    block, kv_heads = cache_layer.shape[2:4]
    _rotate_groups[q.shape[0], kv_heads](
        parts, positions, inverse_frequencies, q, cache_layer, tables, slots, rows, q_norm, k_norm,
        eps, offset, q.shape[0] // slots.shape[0], tables.shape[1], *cache_layer.stride()[:4],
        BLOCK=block, PARTS=parts.shape[0], GROUP=group, HALF=q.shape[2] // 2,
        **sizes(group, q.shape[2]), num_warps=4, **OPTIONS,
    )  # fmt: skip
    return q


def prepared(qkv: Tensor, cache_layer: Tensor) -> tuple[Tensor, int, Tensor]:
    """Parts as kernels read them; query heads of a group; room for rotated queries."""
    parts = qkv.contiguous() if qkv.dim() == 3 else qkv.contiguous()[None]
    kv_heads, head_dim = cache_layer.shape[3:]
    heads = parts.shape[2] // head_dim - 2 * kv_heads
    q = torch.empty(parts.shape[1], heads, head_dim, dtype=cache_layer.dtype, device=qkv.device)
    return parts, heads // kv_heads, q


def sizes(group: int, head_dim: int) -> dict[str, int]:
    """Heads and pairs that a program of `rotate_group` has room for."""
    return {
        "HEADS": triton.next_power_of_2(group + 2), "PAIRS": triton.next_power_of_2(head_dim // 2)
    }  # fmt: skip


@triton.jit(do_not_specialize=["length"])
def _rotate_groups(
    parts, positions, frequencies, q, cache, tables, slots, rows, q_norm, k_norm, eps, offset,
    length, table_blocks, kv_stride, block_stride, row_stride, head_stride,
    BLOCK: tl.constexpr, PARTS: tl.constexpr, GROUP: tl.constexpr, HALF: tl.constexpr,
    HEADS: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    release()
    wait()
    row = tl.program_id(0)
    table = tables + tl.load(slots + row // length) * table_blocks
    cache += row_place(table, tl.load(rows + row), block_stride, row_stride, BLOCK)
    rotate_group(
        row, tl.program_id(1), tl.num_programs(0), tl.num_programs(1),
        parts, positions, frequencies, q, cache, q_norm, k_norm, eps, offset,
        kv_stride, head_stride, PARTS, GROUP, HALF, HEADS, PAIRS,
    )  # fmt: skip


@triton.jit
def row_place(table, row, block_stride, row_stride, BLOCK: tl.constexpr):
    """Int64 offset in the caches of a row of a slot, by the slot's table."""
    block = tl.load(table + row // BLOCK).to(tl.int64)
    return block * block_stride + row % BLOCK * row_stride


@triton.jit
def rotate_group(
    row, kv_head, count, kv_heads,
    parts, positions, frequencies, q, cache, q_norm, k_norm, eps, offset,
    kv_stride, head_stride,
    PARTS: tl.constexpr, GROUP: tl.constexpr, HALF: tl.constexpr, HEADS: tl.constexpr,
    PAIRS: tl.constexpr,
):  # fmt: skip
    """Of one row and key head: rotate its query heads and the key, store these and the value.

    `cache` points to the row's place. The same bits in every kernel of as many warps.
    """
    member, at = tl.arange(0, HEADS)[:, None], tl.arange(0, PAIRS)[None, :]
    queries, keys = member < GROUP, member == GROUP
    rotated = queries | keys
    there = (member < GROUP + 2) & (at < HALF)
    # Queries lie before all keys, and keys before all values.
    head = tl.where(queries, kv_head * GROUP + member, kv_heads * member + kv_head)
    width = kv_heads * (GROUP + 2) * 2 * HALF
    parts += row.to(tl.int64) * width + head * (2 * HALF) + at
    stride = count * width
    a = sum_parts(parts, there, stride, PARTS)
    b = sum_parts(parts + HALF, there, stride, PARTS)
    if q_norm is not None:
        norm = tl.where(queries, q_norm, k_norm) + at
        normed = there & rotated
        square = tl.sum(tl.fma(a, a, b * b), 1)[:, None]
        scale = tl.rsqrt(tl.fma(square, 1.0 / (2 * HALF), eps))
        low = tl.load(norm, normed, other=0.0).to(tl.float32) + offset
        high = tl.load(norm + HALF, normed, other=0.0).to(tl.float32) + offset
        a = tl.where(rotated, a * scale * low, a)
        b = tl.where(rotated, b * scale * high, b)
    one = tl.arange(0, PAIRS)
    frequency = tl.load(frequencies + one, one < HALF, other=0.0)
    angle = tl.load(positions + row).to(tl.float32) * frequency
    cosine = tl.where(rotated, tl.cos(angle)[None, :], 1.0)
    sine = tl.where(rotated, tl.sin(angle)[None, :], 0.0)
    a, b = tl.fma(a, cosine, -(b * sine)), tl.fma(b, cosine, a * sine)
    a, b = a.to(q.dtype.element_ty), b.to(q.dtype.element_ty)
    out = q + (row.to(tl.int64) * (kv_heads * GROUP) + head) * (2 * HALF) + at
    tl.store(out, a, there & queries)
    tl.store(out + HALF, b, there & queries)
    out = cache + (member - GROUP) * kv_stride + kv_head.to(tl.int64) * head_stride + at
    tl.store(out, a, there & (member >= GROUP))
    tl.store(out + HALF, b, there & (member >= GROUP))
