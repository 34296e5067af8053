"""What a Llama, Qwen2, Qwen3 or Qwen3-MoE decoder is; from a config.json or GGUF metadata."""

from __future__ import annotations

import math
from dataclasses import dataclass

from foundryrt.errors import UsageError

ARCHITECTURES = ("llama", "qwen2", "qwen3", "qwen3_moe")
LARGEST = 1 << 24
"""No size of a model is above; a damaged one must not be counted up to."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes and variants of one decoder; checked when made (UsageError)."""

    architecture: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    max_positions: int
    rms_eps: float
    rope_theta: float
    rope_divisors: tuple[float, ...] = ()
    """What each of the head_dim / 2 rotary frequencies is divided by; empty for none."""
    tied_embeddings: bool = False
    """The output projection is the embedding table."""
    qkv_bias: bool = False
    qk_norm: bool = False
    experts: int = 0
    """Experts of a mixture layer; 0 for a dense model."""
    experts_per_token: int = 0
    expert_intermediate: int = 0
    normalize_experts: bool = False
    """The weights of a token's experts are made to sum to 1."""
    dense_layers: tuple[int, ...] = ()
    """Layers of a mixture model that have a plain MLP."""
    dtype: str = "float32"
    """Type of the stored weights, as the model's files name it; the pass may use another."""

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise UsageError(
                f"architecture {self.architecture!r} is not supported; "
                f"supported: {', '.join(ARCHITECTURES)}"
            )
        for name in ("layers", "hidden", "intermediate", "heads", "kv_heads", "vocab"):
            if getattr(self, name) < 1:
                raise UsageError(f"model configuration: {name} is {getattr(self, name)}, not >= 1")
        if not (1 <= self.rope_theta < math.inf and 0 <= self.rms_eps < math.inf):
            raise UsageError(
                f"model configuration: rope_theta {self.rope_theta}, rms_eps {self.rms_eps}"
            )
        if self.heads % self.kv_heads:
            raise UsageError(
                f"model configuration: {self.heads} heads do not divide among "
                f"{self.kv_heads} key-value heads"
            )
        if self.head_dim < 2 or self.head_dim % 2:
            raise UsageError(f"model configuration: head_dim {self.head_dim} is not even")
        if self.experts and not 1 <= self.experts_per_token <= self.experts:
            raise UsageError(
                f"model configuration: {self.experts_per_token} of {self.experts} experts a token"
            )
        if self.experts and self.expert_intermediate < 1:
            raise UsageError("model configuration: expert_intermediate is not >= 1")
        if not all(0 < divisor < math.inf for divisor in self.rope_divisors):
            raise UsageError("model configuration: a rotary divisor is not a positive number")
        if self.rope_divisors and len(self.rope_divisors) != self.head_dim // 2:
            raise UsageError(
                f"model configuration: {len(self.rope_divisors)} rotary divisors "
                f"for head_dim {self.head_dim}"
            )

    @property
    def group(self) -> int:
        """Query heads that share one key-value head."""
        return self.heads // self.kv_heads

    @property
    def qkv_rows(self) -> int:
        """Rows of the fused query, key and value projection."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    def is_mixture(self, layer: int) -> bool:
        """Whether a layer has experts in place of one MLP."""
        return self.experts > 0 and layer not in self.dense_layers

    def inverse_frequencies(self) -> list[float]:
        """The head_dim / 2 rotary frequencies, radians a position."""
        half = self.head_dim // 2
        divisors = self.rope_divisors or (1.0,) * half
        return [self.rope_theta ** (-i / half) / divisors[i] for i in range(half)]


def llama3_divisors(
    head_dim: int, theta: float, factor: float, low: float, high: float, original: int
) -> tuple[float, ...]:
    """Llama 3.1's frequency scaling as divisors of the plain frequencies.

    Wavelengths above original / low are stretched by `factor`, those below original / high are
    kept, and between them the frequency is interpolated.
    """
    divisors = []
    for i in range(head_dim // 2):
        wavelength = 2 * math.pi * theta ** (2 * i / head_dim)
        kept = (original / wavelength - low) / (high - low)
        kept = min(max(kept, 0.0), 1.0)
        divisors.append(1 / ((1 - kept) / factor + kept))
    return tuple(divisors)
