"""Masked grouped-query attention in torch: what the attention kernels compute, for CPU tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def below_or_own(
    keys: int, rows: Tensor, cuts: Tensor, starts: Tensor, lows: Tensor | None = None
) -> Tensor:
    """Bool [T, keys]: key k is visible where low <= k < cut or start <= k <= row."""
    key = torch.arange(keys, dtype=torch.int64, device=rows.device)
    own = (key >= starts[:, None]) & (key <= rows[:, None])
    return _below(key, cuts, lows) | own


def below_or_ancestor(
    keys: int, cuts: Tensor, starts: Tensor, ancestors: Tensor, lows: Tensor | None = None
) -> Tensor:
    """Bool [T, keys]: key k is visible where low <= k < cut or bit k - start is set."""
    key = torch.arange(keys, dtype=torch.int64, device=cuts.device)
    bit = key - starts[:, None]
    near = (bit >= 0) & (bit < 64)
    is_set = (ancestors[:, None] >> bit.clamp(0, 63)) & 1
    return _below(key, cuts, lows) | (near & (is_set == 1))


def _below(key: Tensor, cuts: Tensor, lows: Tensor | None) -> Tensor:
    seen = key < cuts[:, None]
    return seen if lows is None else seen & (key >= lows[:, None])


def attend(
    q: Tensor, cache: Tensor, visible: Tensor, scale: float | None = None, cap: float = 0.0
) -> Tensor:
    """[B * L, H * D] of queries [B * L, H, D], each slot's L rows side by side.

    `cache` is [2, KV, B, keys, D] and `visible` bool [B * L, keys]. Query heads of a group read
    the same keys, so they are rows of one product. A row that sees nothing is zero.
    """
    count, heads, head_dim = q.shape
    kv_heads, slots, keys = cache.shape[1:4]
    group, length = heads // kv_heads, count // slots
    q = q.view(slots, length, kv_heads, group, head_dim).permute(2, 0, 3, 1, 4)
    q = q.reshape(kv_heads, slots, group * length, head_dim)
    scores = torch.matmul(q, cache[0].transpose(-1, -2)) * (scale or head_dim**-0.5)
    if cap:
        scores = (scores / cap).tanh() * cap
    scores = scores.view(kv_heads, slots, group, length, keys).float()
    hidden = visible.logical_not().view(slots, 1, length, keys)
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    weights = weights.masked_fill(hidden.all(-1, keepdim=True), 0.0).to(q.dtype)
    x = torch.matmul(weights.flatten(2, 3), cache[1])
    x = x.view(kv_heads, slots, group, length, head_dim)
    return x.permute(1, 3, 0, 2, 4).reshape(count, heads * head_dim)


def chosen(cache_layer: Tensor, tables: Tensor, slots: Tensor, keys: int) -> Tensor:
    """A copy of the first `keys` rows of some slots, [2, KV, B, keys, D]."""
    block = cache_layer.shape[2]
    blocks = tables[:, : -(-keys // block)].index_select(0, slots).flatten()
    rows = cache_layer.index_select(1, blocks)
    rows = rows.reshape(2, slots.shape[0], -1, *rows.shape[3:])
    return rows[:, :, :keys].permute(0, 3, 1, 2, 4)
