"""The decoder as a function of static shapes: no data decides what is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from parse_runtime.kernels.attend_rows import attend_rows
from parse_runtime.kernels.attend_step import attend_step
from parse_runtime.kernels.linear import linear, linear_parts
from parse_runtime.kernels.norm import add_rms_norm
from parse_runtime.kernels.rotate import rotate_store
from parse_runtime.kernels.swiglu import linear_swiglu
from parse_runtime.models.config import ModelConfig
from parse_runtime.models.moe import mixture


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
    """and those from the start up to the row itself,"""
    slots: Tensor
    """[1], the slot of every row, or [B], and then T / B rows in turn belong to each."""
    ancestors: Tensor | None = None
    """or, where given, those whose distance from the start is a set bit."""

    @staticmethod
    def of(plan: Tensor, slot: Tensor) -> Rows:
        """Rows of one slot, from int64 [5, T], as `parse_runtime.signature.plan` makes it."""
        tokens, positions, rows, cuts, starts = plan.unbind(0)
        return Rows(tokens, positions, rows, cuts, starts, slot)

    @staticmethod
    def steps(plan: Tensor, slots: Tensor) -> Rows:
        """One row of each slot, which reads what is below its cut, and itself."""
        tokens, positions, rows, cuts, starts = plan.unbind(0)
        ancestors = torch.ones_like(plan[0])
        return Rows(tokens, positions, rows, cuts, starts, slots, ancestors)

    @staticmethod
    def flat(
        tokens: Tensor, positions: Tensor, rows: Tensor, cuts: Tensor, starts: Tensor,
        slots: Tensor, ancestors: Tensor,
    ) -> Rows:  # fmt: skip
        """L rows of each of B slots, from [B, L] each; broadcasts are written out for kernels."""
        flat = [t.flatten().contiguous() for t in (tokens, positions, rows, cuts, starts)]
        return Rows(flat[0], flat[1], flat[2], flat[3], flat[4], slots, ancestors.flatten())

    @property
    def length(self) -> int:
        """Rows of a slot."""
        return self.tokens.shape[0] // self.slots.shape[0]

    def places(self, rows: int) -> Tensor:
        """Where keys and values go in a cache whose slots, `rows` long, lie end to end."""
        slots = self.slots if self.ancestors is None else self.slots.repeat_interleave(self.length)
        return self.rows + slots * rows


@dataclass(frozen=True)
class Pass:
    """What all layers of a pass share."""

    config: ModelConfig
    inverse_frequencies: Tensor
    rows: Rows
    places: Tensor
    keys: int
    """Attention reads the first `keys` rows of a slot."""


Layer = Callable[
    [Mapping[str, Tensor], Pass, Tensor, Tensor | None, Tensor], tuple[Tensor, Tensor, Tensor]
]


def forward(
    parameters: Mapping[str, Tensor],
    config: ModelConfig,
    inverse_frequencies: Tensor,
    rows: Rows,
    cache: Cache,
    keys: int,
    tapped: Sequence[int] = (),
    layer: Layer | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Normalized hidden states [T, hidden] of T rows; their keys and values go to the cache.

    Attention reads the first `keys` rows of a slot. The second result has the hidden states
    [T, hidden] that enter each of the `tapped` layers. `layer` is `decoder_layer`, or that
    compiled.
    """
    run = layer or decoder_layer
    shared = Pass(config, inverse_frequencies, rows, rows.places(cache.rows), keys)
    added, hidden = parameters["embed"].index_select(0, rows.tokens), None
    entering = []
    for index in range(config.layers):
        weights = of_layer(parameters, index)
        added, entered, hidden = run(weights, shared, added, hidden, cache.values[index])
        entering.append(entered)
    x, _ = add_rms_norm(added, hidden, parameters["norm"], config.rms_eps)
    return x, [entering[index] for index in tapped]


def decoder_layer(
    weights: Mapping[str, Tensor],
    shared: Pass,
    added: Tensor,
    hidden: Tensor | None,
    stored: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """One layer; `stored` is its part of the cache.

    The residual stream is `hidden` [T, hidden] plus `added`, the last block's product that is not
    added yet ([T, hidden] or parts of `linear_parts`). Gives the next `added`, the stream that
    entered the layer, and the next `hidden`.
    """
    c = shared.config
    x, entered = add_rms_norm(added, hidden, weights["input_norm"], c.rms_eps)
    added = attention(weights, shared, x, stored)
    x, hidden = add_rms_norm(added, entered, weights["post_norm"], c.rms_eps)
    added = mixture(weights, c, x) if "router" in weights else mlp(weights, x)
    return added, entered, hidden


def attention(w: Mapping[str, Tensor], shared: Pass, x: Tensor, stored: Tensor) -> Tensor:
    """Self-attention over x [T, width], as `linear_parts`; keys and values are stored first."""
    r, keys = shared.rows, shared.keys
    q = store(w, shared, linear_parts(x, w["qkv"], w.get("qkv_bias")), stored)
    if r.ancestors is None:
        x = attend_rows(q, stored, r.slots, r.rows, r.cuts, r.starts, keys)
    else:
        x = attend_step(q, stored, r.slots, r.cuts, r.starts, r.ancestors, keys, r.length)
    return linear_parts(x, w["o"])


def store(w: Mapping[str, Tensor], shared: Pass, qkv: Tensor, stored: Tensor) -> Tensor:
    """Rotated queries of a query-key-value product; keys and values go to the cache."""
    norms = (w["q_norm"], w["k_norm"]) if shared.config.qk_norm else None
    return rotate_store(
        qkv, shared.rows.positions, shared.inverse_frequencies, stored, shared.places, norms,
        shared.config.rms_eps,
    )  # fmt: skip


def mlp(w: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """down(silu(gate(x)) * up(x)), as `linear_parts`."""
    return linear_parts(linear_swiglu(x, w["gate_up"]), w["down"])


def logits(parameters: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
    """[N, vocab] of hidden states [N, hidden], in their dtype."""
    table = parameters["head"] if "head" in parameters else parameters["embed"]
    return linear(hidden, table)


def of_layer(parameters: Mapping[str, Tensor], layer: int) -> dict[str, Tensor]:
    """The parameters of one layer by their names inside it."""
    prefix = f"layers.{layer}."
    return {k.removeprefix(prefix): v for k, v in parameters.items() if k.startswith(prefix)}
