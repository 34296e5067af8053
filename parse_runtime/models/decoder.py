"""The decoder as a function of static shapes: no data decides what is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foundryc.ranks import Ranks
from parse_runtime.kernels.attend_rows import attend_rows
from parse_runtime.kernels.attend_step import attend_step, attend_step_parts
from parse_runtime.kernels.gather import chained, rows_at
from parse_runtime.kernels.linear import linear, linear_parts
from parse_runtime.kernels.norm import add_rms_norm
from parse_runtime.kernels.normed import normed_parts, normed_swiglu
from parse_runtime.kernels.quantized import weight_of
from parse_runtime.kernels.ranks import Added, first_of, linear_shares, own_rows, summed
from parse_runtime.kernels.rotate import Rotation
from parse_runtime.kernels.swiglu import linear_swiglu
from parse_runtime.kernels.verdicts import unrounded
from parse_runtime.models.cache import Cache
from parse_runtime.models.config import ModelConfig
from parse_runtime.models.moe import mixture
from parse_runtime.models.rows import Rows


@dataclass(frozen=True)
class Wanted:
    """The rows of a pass whose hidden states are wanted."""

    behind: Tensor
    """Int64 [N], counted from row `first` on; all rows before it are wanted, too."""
    first: int = 0

    def of(self, x: Tensor) -> Tensor:
        """[first + N, ...] of all rows [T, ...]."""
        return rows_at(x, self.behind, self.first)


@dataclass(frozen=True)
class Pass:
    """What all layers of a pass share, or all windowed ones."""

    config: ModelConfig
    inverse_frequencies: Tensor
    rows: Rows
    tables: Tensor
    """Of the cache."""
    keys: int
    """Attention reads the first `keys` rows of a slot."""
    ranks: Ranks | None = None
    """Those that share the model; `config` and the weights are then one rank's."""
    first_expert: Tensor | None = None
    """And this is where the rank's experts begin."""
    wanted: Wanted | None = None
    """In the last layer, the rows that go on behind attention; None for all."""


Layer = Callable[
    [Mapping[str, Tensor], Pass, Added, Tensor | None, Tensor], tuple[Added, Tensor, Tensor]
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
    windowed_frequencies: Tensor | None = None,
    ranks: Ranks | None = None,
    wanted: Wanted | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Normalized hidden states [T, hidden] of T rows, or of those that are `wanted`.

    Keys and values of all rows go to the cache. Attention reads the first `keys` rows of a slot.
    The second result has the hidden states [T, hidden] that enter each of the `tapped` layers.
    `layer` is `decoder_layer`, or that compiled. Windowed layers have `windowed_frequencies` where
    those differ. With `ranks` parameters, configuration and cache are one rank's
    (`parse_runtime.models.shard`), and all ranks have the same hidden states.
    """
    run = layer or decoder_layer
    shared = windowed = Pass(
        config, inverse_frequencies, rows, cache.tables, keys, ranks,
        first_of(ranks, config.experts // ranks.world) if ranks and config.experts else None,
    )  # fmt: skip
    if config.windowed_layers:
        windowed = replace(shared, rows=rows.windowed(config.window))
        if windowed_frequencies is not None:
            windowed = replace(windowed, inverse_frequencies=windowed_frequencies)
    added: Added = embedded(parameters, config, rows.tokens, ranks)
    hidden = None
    entering = []
    for index in range(config.layers):
        weights = of_layer(parameters, index)
        part = windowed if index in config.windowed_layers else shared
        if index == config.layers - 1 and wanted is not None:
            # The other rows have left what they are for, keys and values. Not compiled: the layer's
            # shapes are its own.
            part, run = replace(part, wanted=wanted), decoder_layer
        added, entered, hidden = run(weights, part, added, hidden, cache.layer(index))
        entering.append(entered)
    x, _ = add_rms_norm(
        added, hidden, parameters["norm"], config.rms_eps, config.norm_offset,
        None if config.output_norms else ranks,
    )  # fmt: skip
    return x, [entering[index] for index in tapped]


def embedded(
    parameters: Mapping[str, Tensor], config: ModelConfig, tokens: Tensor, ranks: Ranks | None
) -> Tensor:
    """[T, hidden] that enter the first layer; a scale is rounded to their dtype first.

    With `ranks` a share of these.
    """
    x = rows_of(parameters["embed"], tokens, ranks)
    if config.embedding_scale == 1:
        return x
    # On the CPU, where no kernel is told of a tensor by its strides.
    return x * torch.full((), config.embedding_scale, dtype=x.dtype, device="cpu")


def decoder_layer(
    weights: Mapping[str, Tensor],
    shared: Pass,
    added: Added,
    hidden: Tensor | None,
    stored: Tensor,
) -> tuple[Added, Tensor, Tensor]:
    """One layer; `stored` is its part of the cache.

    The residual stream is `hidden` [T, hidden] plus `added`, the last block's product that is not
    added yet ([T, hidden] or parts of `linear_parts`), of several ranks a share of it. Gives the
    next `added`, the stream that entered the layer, and the next `hidden`; the first and the last
    of the rows that are wanted.
    """
    c, ranks = shared.config, shared.ranks
    eps, offset = c.rms_eps, c.norm_offset
    # Output norms add the shares themselves; none is before the first layer.
    left = None if c.output_norms else ranks
    entering = ranks if hidden is None else left
    qkv, entered = normed_parts(
        added, hidden, weights["input_norm"], eps, offset, entering,
        weight_of(weights, "qkv"), weights.get("qkv_bias"),
    )  # fmt: skip
    added = attended(weights, shared, qkv, stored)
    residual = entered if shared.wanted is None else shared.wanted.of(entered)
    if c.output_norms:
        added, _ = add_rms_norm(added, None, weights["attention_output_norm"], eps, offset, ranks)
    if "router" in weights:
        x, hidden = add_rms_norm(added, residual, weights["post_norm"], eps, offset, left)
        added = mixture(weights, c, x, shared.first_expert)
    else:
        x, hidden = normed_swiglu(
            added, residual, weights["post_norm"], eps, offset, left,
            weight_of(weights, "gate_up"), c.gelu,
        )  # fmt: skip
        added = linear_shares(x, weight_of(weights, "down"), ranks)
    if c.output_norms:
        added, _ = add_rms_norm(added, None, weights["mlp_output_norm"], eps, offset, ranks)
    return added, entered, hidden


def attention(w: Mapping[str, Tensor], shared: Pass, x: Tensor, stored: Tensor) -> Added:
    """Self-attention over x [T, width], as `linear_shares`; keys and values are stored first."""
    return attended(w, shared, linear_parts(x, weight_of(w, "qkv"), w.get("qkv_bias")), stored)


def attended(w: Mapping[str, Tensor], shared: Pass, qkv: Tensor, stored: Tensor) -> Added:
    """`attention` from a query-key-value product on; of the rows that are wanted."""
    r, c, keys = shared.rows, shared.config, shared.keys
    scale, cap = c.score_scale or None, c.score_cap
    if r.ancestors is not None:
        return attend_step_parts(
            qkv, rotation(w, shared), stored, shared.tables, r.slots, r.cuts, r.starts,
            r.ancestors, keys, r.length, weight_of(w, "o"), shared.ranks, lows=r.lows, scale=scale,
            cap=cap,
        )  # fmt: skip
    q = store(w, shared, qkv, stored)
    if r.parts is None:
        x = _seen(shared, r, q, stored)
    else:
        steps, behind = r.parts
        count = steps.tokens.shape[0]
        x = _seen(shared, steps, q[:count], stored)
        x = chained(x, _seen(shared, behind, q[count:], stored))
    if shared.wanted is not None:
        x = shared.wanted.of(x)
    return linear_shares(x, weight_of(w, "o"), shared.ranks)


def _seen(shared: Pass, r: Rows, q: Tensor, stored: Tensor) -> Tensor:
    """Of rows that are stored, by `attend_step` or `attend_rows`."""
    c, keys = shared.config, shared.keys
    scale, cap = c.score_scale or None, c.score_cap
    if r.ancestors is not None:
        return attend_step(
            q, stored, shared.tables, r.slots, r.cuts, r.starts, r.ancestors, keys, r.length,
            lows=r.lows, scale=scale, cap=cap,
        )  # fmt: skip
    return attend_rows(
        q, stored, shared.tables, r.slots, r.rows, r.cuts, r.starts, keys, lows=r.lows,
        scale=scale, cap=cap,
    )  # fmt: skip


def store(w: Mapping[str, Tensor], shared: Pass, qkv: Tensor, stored: Tensor) -> Tensor:
    """Rotated queries of a query-key-value product; keys and values go to the cache."""
    return rotation(w, shared).store(qkv, stored, shared.tables, shared.rows.slots)


def rotation(w: Mapping[str, Tensor], shared: Pass) -> Rotation:
    """Of a layer's queries and keys."""
    c, r = shared.config, shared.rows
    norms = (w["q_norm"], w["k_norm"]) if c.qk_norm else None
    return Rotation(
        r.positions, shared.inverse_frequencies, r.rows, norms, c.rms_eps, c.norm_offset
    )


def mlp(w: Mapping[str, Tensor], x: Tensor, gelu: bool = False) -> Tensor:
    """down(silu(gate(x)) * up(x)), or with GELU, as `linear_parts`."""
    return linear_parts(linear_swiglu(x, weight_of(w, "gate_up"), gelu), weight_of(w, "down"))


def logits(parameters: Mapping[str, Tensor], hidden: Tensor, cap: float = 0.0) -> Tensor:
    """[N, vocab] of hidden states [N, hidden], in their dtype; capped by tanh where `cap` is.

    Of a rank's parameters, for its part of the vocabulary.
    """
    x = linear(hidden, _output_table(parameters))
    return (x / cap).tanh() * cap if cap else x


def logits_of(
    parameters: Mapping[str, Tensor], hidden: Tensor, tokens: Tensor, cap: float = 0.0,
    ranks: Ranks | None = None,
) -> Tensor:  # fmt: skip
    """Float32 [N, tokens] of a few tokens, int64 [tokens], not rounded to the model's dtype."""
    table = rows_of(_output_table(parameters), tokens, ranks)
    x = unrounded(hidden, table)
    if ranks is not None:
        x = summed(x, ranks)
    return (x / cap).tanh() * cap if cap else x


def rows_of(table: Tensor, tokens: Tensor, ranks: Ranks | None) -> Tensor:
    """Rows [T, K] of a table of the vocabulary; of several ranks, shares of them."""
    return rows_at(table, tokens) if ranks is None else own_rows(table, tokens, ranks)


def _output_table(parameters: Mapping[str, Tensor]) -> Tensor:
    return parameters["head"] if "head" in parameters else parameters["embed"]


def of_layer(parameters: Mapping[str, Tensor], layer: int) -> dict[str, Tensor]:
    """The parameters of one layer by their names inside it."""
    prefix = f"layers.{layer}."
    return {k.removeprefix(prefix): v for k, v in parameters.items() if k.startswith(prefix)}
