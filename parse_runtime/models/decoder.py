"""The decoder as a function of static shapes: no data decides what is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from parse_runtime.models.attention import attend, mask_bias
from parse_runtime.models.config import ModelConfig


@dataclass(frozen=True)
class Cache:
    """Keys and values of every layer: [layers, 2, kv_heads, slots, rows, head_dim].

    A slot holds one sequence. Which of its rows belong to the sequence is the caller's business:
    a row is read only where a mask allows it, so a sequence is cropped by forgetting its end.
    """

    values: Tensor

    @property
    def rows(self) -> int:
        return int(self.values.shape[4])


@dataclass(frozen=True)
class Rows:
    """What the T rows of a pass are, each int64 [T] (docs/parse.md)."""

    tokens: Tensor
    positions: Tensor
    rows: Tensor
    """Row of the slot that a token's key and value are written to."""
    cuts: Tensor
    """Key rows below the cut are seen,"""
    starts: Tensor
    """and those from the start up to the row itself."""

    @staticmethod
    def of(plan: Tensor) -> Rows:
        """From int64 [5, T], as `parse_runtime.layout` makes it."""
        return Rows(*plan.unbind(0))


def forward(
    parameters: dict[str, Tensor],
    config: ModelConfig,
    inverse_frequencies: Tensor,
    rows: Rows,
    cache: Cache,
    slots: Tensor,
    keys: int,
    batched: bool,
) -> Tensor:
    """Normalized hidden states [T, hidden] of T rows; their keys and values go to the cache.

    `slots` int64 is [1], the slot of every row, or, where `batched`, [T], and then row i belongs
    to slot i. Attention reads the first `keys` rows of a slot.
    """
    p, c = parameters, config
    hidden = p["embed"].index_select(0, rows.tokens)
    rotation = rotary(rows.positions, inverse_frequencies, hidden.dtype)
    write = rows.rows + slots * cache.rows
    bias = mask_bias(rows, keys, hidden.dtype, batched)
    for layer in range(c.layers):
        w = _Layer(p, layer)
        x = rms_norm(hidden, w("input_norm"), c.rms_eps)
        q, k, v = _project(x, w, c)
        q, k = rotate(q, rotation), rotate(k, rotation)
        stored = cache.values[layer]
        flat = stored.flatten(2, 3)
        flat[0].index_copy_(1, write, k.transpose(0, 1))
        flat[1].index_copy_(1, write, v.transpose(0, 1))
        x = attend(q, stored[:, :, :, :keys], bias, slots, batched)
        hidden = hidden + F.linear(x, w("o"))
        x = rms_norm(hidden, w("post_norm"), c.rms_eps)
        gate, up = F.linear(x, w("gate_up")).chunk(2, dim=-1)
        hidden = hidden + F.linear(F.silu(gate) * up, w("down"))
    return rms_norm(hidden, p["norm"], c.rms_eps)


def logits(parameters: dict[str, Tensor], hidden: Tensor) -> Tensor:
    """Float32 [N, vocab] of hidden states [N, hidden]."""
    table = parameters["head"] if "head" in parameters else parameters["embed"]
    return F.linear(hidden, table).float()


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension; the mean square is taken in float32."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


def rotary(
    positions: Tensor, inverse_frequencies: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosine and sine, each [T, 1, head_dim / 2]."""
    angles = positions.float()[:, None, None] * inverse_frequencies
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding of [T, heads, head_dim]; the pairs are the two halves of a head."""
    cosine, sine = rotation
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cosine - b * sine, b * cosine + a * sine), dim=-1)


class _Layer:
    def __init__(self, parameters: dict[str, Tensor], layer: int) -> None:
        self._parameters, self._prefix = parameters, f"layers.{layer}."

    def __call__(self, name: str) -> Tensor:
        return self._parameters[self._prefix + name]


def _project(
    x: Tensor, w: Callable[[str], Tensor], c: ModelConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Query [T, heads, head_dim], key and value [T, kv_heads, head_dim]."""
    fused = F.linear(x, w("qkv"), w("qkv_bias") if c.qkv_bias else None)
    fused = fused.view(x.shape[0], -1, c.head_dim)
    q, k, v = fused.split((c.heads, c.kv_heads, c.kv_heads), dim=1)
    if c.qk_norm:
        q, k = rms_norm(q, w("q_norm"), c.rms_eps), rms_norm(k, w("k_norm"), c.rms_eps)
    return q, k, v
