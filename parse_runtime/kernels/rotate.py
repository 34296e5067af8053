"""Between the query-key-value product and attention: norms, rotary embedding, cache write."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from parse_runtime.kernels.norm import added, rms_norm


class Rotation(NamedTuple):
    """What `rotate_store` is given beside a product, a cache and its slots."""

    positions: Tensor
    inverse_frequencies: Tensor
    rows: Tensor
    norms: tuple[Tensor, Tensor] | None
    eps: float
    offset: float

    def store(self, qkv: Tensor, cache_layer: Tensor, tables: Tensor, slots: Tensor) -> Tensor:
        """`rotate_store`."""
        return rotate_store(
            qkv, self.positions, self.inverse_frequencies, cache_layer, tables, slots, self.rows,
            self.norms, self.eps, self.offset,
        )  # fmt: skip


def rotate_store(
    qkv: Tensor,
    positions: Tensor,
    inverse_frequencies: Tensor,
    cache_layer: Tensor,
    tables: Tensor,
    slots: Tensor,
    rows: Tensor,
    norms: tuple[Tensor, Tensor] | None = None,
    eps: float = 0.0,
    offset: float = 0.0,
) -> Tensor:
    """Rotated queries [T, heads, D]; rotated keys and values go to the cache.

    `qkv` is [T, (heads + 2 * kv_heads) * D], or parts [S, T, ...] of `linear_parts`; `positions`
    int64 [T]; `inverse_frequencies` float32 [D / 2]; `cache_layer` [2, N, 16, kv_heads, D]; row
    `rows[i]` (int64 [T]) of its slot is where row i goes, by `tables` int32 [S, R] as
    `attend_rows` reads them. T / B rows in turn belong to each of `slots` int64 [B]. `norms` are
    the weights [D] of the query and key norms (Qwen3), to which `offset` is added (Gemma 3). The
    pairs that rotate are the two halves of a head.
    """
    if qkv.is_cuda:
        from parse_runtime.kernels.cuda.rotate import rotate_store as kernel

        return kernel(
            qkv, positions, inverse_frequencies, cache_layer, tables, slots, rows, norms, eps,
            offset,
        )  # fmt: skip
    block, kv_heads, head_dim = cache_layer.shape[2:]
    qkv = added(qkv, cache_layer.dtype)
    qkv = qkv.view(qkv.shape[0], -1, head_dim)
    q, k, v = torch.split(qkv, [qkv.shape[1] - 2 * kv_heads, kv_heads, kv_heads], dim=1)
    if norms is not None:
        q, k = rms_norm(q, norms[0], eps, offset), rms_norm(k, norms[1], eps, offset)
    cosine, sine = rotary(positions, inverse_frequencies, q.dtype)
    where = places(tables, slots, rows, block)
    cache_layer[0].index_put_(where, rotate(k, cosine, sine))
    cache_layer[1].index_put_(where, v)
    return rotate(q, cosine, sine)


def places(tables: Tensor, slots: Tensor, rows: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Of each of `rows`, as `rotate_store` takes them, its block and the row in it, int64 [T]."""
    slots = slots.repeat_interleave(rows.shape[0] // slots.shape[0])
    blocks = tables.flatten().index_select(0, slots * tables.shape[1] + rows // block)
    return blocks.to(torch.int64), rows % block


def rotary(
    positions: Tensor, inverse_frequencies: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosine and sine, each [T, 1, head_dim / 2], of `positions` [T]."""
    angles = positions.float()[:, None, None] * inverse_frequencies
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary embedding of [..., T, heads, head_dim]; the pairs are the two halves of a head."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cosine - b * sine, b * cosine + a * sine), dim=-1)
