"""Grouped-query attention over a static cache, masked by two integers a row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from parse_runtime.models.decoder import Rows


def mask_bias(rows: Rows, keys: int, dtype: torch.dtype, batched: bool) -> Tensor:
    """0 where row q may read key row k, else -inf: k < cut(q), or start(q) <= k <= row(q).

    [T, 1, 1, keys] where every row is a sequence of its own (`batched`), else [1, 1, T, keys].
    """
    key = torch.arange(keys, dtype=torch.int64, device=rows.rows.device)
    own = (key >= rows.starts[:, None]) & (key <= rows.rows[:, None])
    hidden = ((key < rows.cuts[:, None]) | own).logical_not()
    bias = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
    bias = bias.masked_fill(hidden, float("-inf"))
    return bias[:, None, None, :] if batched else bias[None, None]


def attend(q: Tensor, cache: Tensor, bias: Tensor, slots: Tensor, batched: bool) -> Tensor:
    """[T, heads * head_dim] of queries [T, heads, head_dim].

    `cache` is [2, kv_heads, slots, keys, head_dim]. Query heads of one group read the same keys,
    so they are rows of one product.
    """
    count, heads, head_dim = q.shape
    kv_heads = cache.shape[1]
    group = heads // kv_heads
    if batched:
        chosen = cache[:, :, :count]
        q = q.view(count, kv_heads, group, head_dim).transpose(0, 1)
        sequences, length = count, 1
    else:
        # One slot needs no choice, and so no copy of its keys.
        chosen = cache if cache.shape[2] == 1 else cache.index_select(2, slots)
        q = q.view(count, kv_heads, group, head_dim).permute(1, 2, 0, 3)
        sequences, length = 1, count
    q = q.reshape(kv_heads, sequences, group * length, head_dim)
    scores = torch.matmul(q, chosen[0].transpose(-1, -2)) * head_dim**-0.5
    scores = scores.view(kv_heads, sequences, group, length, -1) + bias
    weights = scores.float().softmax(-1).to(q.dtype)
    x = torch.matmul(weights.flatten(2, 3), chosen[1])
    x = x.view(kv_heads, sequences, group, length, head_dim)
    return x.permute(1, 3, 0, 2, 4).reshape(count, heads * head_dim)
