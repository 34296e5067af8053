"""Rotary embeddings of a config.json: their base, divisors of the frequencies, magnitude."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from foundryrt.errors import UsageError
from parse_runtime.models.rope import llama3_divisors, yarn_divisors, yarn_magnitude


@dataclass(frozen=True)
class Rope:
    """What `ModelConfig` says of rotary embeddings."""

    theta: float
    divisors: tuple[float, ...] = ()
    magnitude: float = 1.0
    """Of rotated queries and keys, each."""
    positions: int = 0
    """Up to which a scaling is meant to serve; 0 where it does not say."""
    windowed_theta: float = 0.0
    """Of windowed layers, where it differs."""


def read_rope(values: Mapping[str, Any], architecture: str, head_dim: int, where: str) -> Rope:
    """The rotary embeddings of a model; UsageError names a scaling that is not supported.

    transformers 5 keeps theta inside `rope_parameters`, 4 beside `rope_scaling`. Where a
    config.json has both, `rope_scaling` counts, as in transformers 5. Gemma 3 has two of them.
    """
    if architecture == "gemma3":
        return _gemma3(values, head_dim, where)
    name = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"
    usual = 1e6 if architecture == "mixtral" else 1e4
    rope = dict(values.get(name) or {})
    return _one(rope, values, float(values.get("rope_theta") or usual), head_dim, where, name)


def _gemma3(values: Mapping[str, Any], head_dim: int, where: str) -> Rope:
    """Layers with a window have a base of their own, and no scaling."""
    name = "rope_parameters"
    both = dict(values.get(name) or {})
    full = {**(both.get("full_attention") or {}), **(values.get("rope_scaling") or {})}
    sliding = dict(both.get("sliding_attention") or {})
    theta, local = values.get("rope_theta") or 1e6, values.get("rope_local_base_freq") or 1e4
    found = _one(full, values, float(theta), head_dim, where, name)
    windowed = _one(sliding, values, float(local), head_dim, where, name)
    if windowed.divisors or found.magnitude != 1:
        raise UsageError(f"{where}: {name}: rope scaling of this kind is not supported for gemma3")
    return replace(found, windowed_theta=windowed.theta)


def _one(
    rope: Mapping[str, Any],
    values: Mapping[str, Any],
    theta: float,
    head_dim: int,
    where: str,
    name: str,
) -> Rope:
    theta = float(rope.get("rope_theta") or theta)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if rope.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise UsageError(f"{where}: {name}: partial_rotary_factor is not supported")

    def need(key: str, default: Any = None) -> float:
        value = rope.get(key, default)
        if value is None:
            raise UsageError(f"{where}: {name}: rope scaling {kind!r} lacks {key!r}")
        return float(value)

    if kind == "default":
        return Rope(theta)
    if kind == "linear":
        return Rope(theta, (need("factor"),) * (head_dim // 2))
    original = values.get("max_position_embeddings")
    if kind == "llama3":
        context = int(need("original_max_position_embeddings", original))
        low, high = need("low_freq_factor"), need("high_freq_factor")
        return Rope(theta, llama3_divisors(head_dim, theta, need("factor"), low, high, context))
    if kind != "yarn":
        raise UsageError(
            f"{where}: {name}: rope scaling {kind!r} is not supported; only 'linear', 'llama3' "
            "and 'yarn' are"
        )
    context = int(need("original_max_position_embeddings", original))
    factor = need("factor")
    divisors = yarn_divisors(
        head_dim, theta, factor, context,
        float(rope.get("beta_fast") or 32), float(rope.get("beta_slow") or 1),
        bool(rope.get("truncate", True)),
    )  # fmt: skip
    magnitude, every = rope.get("mscale"), rope.get("mscale_all_dim")
    if (given := rope.get("attention_factor")) is not None:
        found = float(given)
    elif magnitude and every:
        found = yarn_magnitude(factor, float(magnitude)) / yarn_magnitude(factor, float(every))
    else:
        found = yarn_magnitude(factor)
    return Rope(theta, divisors, found, int(factor * context))
