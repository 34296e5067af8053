"""What a decoder is: sizes and variants, from a config.json or GGUF metadata."""

from __future__ import annotations

import math
from dataclasses import dataclass

from foundryrt.errors import UsageError

ARCHITECTURES = (
    "llama", "qwen2", "qwen3", "qwen3_moe", "mistral", "mixtral", "gemma2", "gemma3",
)  # fmt: skip
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
    window: int = 0
    """Keys that a row of a windowed layer sees at most, its own among them; 0 for no window."""
    windowed_layers: tuple[int, ...] = ()
    windowed_rope_theta: float = 0.0
    """Rotary base of windowed layers, which then have no divisors; 0 for that of all layers."""
    score_scale: float = 0.0
    """Factor of attention scores; 0 for head_dim ** -0.5."""
    score_cap: float = 0.0
    """Attention scores s become cap * tanh(s / cap); 0 for none."""
    logit_cap: float = 0.0
    """The same of logits."""
    embedding_scale: float = 1.0
    """Factor of the embeddings that enter the first layer."""
    gelu: bool = False
    """GELU, approximated by tanh, in place of SiLU."""
    norm_offset: float = 0.0
    """What is added to the weights of norms: 1 in Gemma's safetensors."""
    output_norms: bool = False
    """What attention and MLP give is normalized before it is added to the residual stream."""
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
    scale_block: int = 0
    """Rows, and columns, of FP8 weights that share a scale; 0 where weights are not quantized."""
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
        if self.window < 0 or (self.windowed_layers and not self.window):
            raise UsageError(f"model configuration: sliding window of {self.window}")
        if not (self.windowed_rope_theta == 0 or 1 <= self.windowed_rope_theta < math.inf):
            raise UsageError(
                f"model configuration: rope_theta {self.windowed_rope_theta} of windowed layers"
            )
        for name in ("score_scale", "score_cap", "logit_cap", "embedding_scale"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"model configuration: {name} is {getattr(self, name)}")
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

    def windowed_frequencies(self) -> list[float]:
        """Those of windowed layers."""
        if not self.windowed_rope_theta:
            return self.inverse_frequencies()
        half = self.head_dim // 2
        return [self.windowed_rope_theta ** (-i / half) for i in range(half)]
