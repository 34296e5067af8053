"""GGUF metadata to a ModelConfig."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from foundryrt.errors import UsageError
from parse_runtime.models.config import ModelConfig
from parse_runtime.models.rope import yarn_divisors, yarn_magnitude

_ARCHITECTURES = {
    "llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "qwen3moe": "qwen3_moe",
    "gemma2": "gemma2", "gemma3": "gemma3",
}  # fmt: skip
"""llama.cpp's names. A Mistral is a llama, and so is a Mixtral: one that has experts."""
_EXPERTS = ("llama", "qwen3moe")
_WINDOWS = ("llama", "gemma2", "gemma3")

_KNOWN = {
    "block_count", "embedding_length", "feed_forward_length", "context_length", "vocab_size",
    "attention.head_count", "attention.head_count_kv", "attention.key_length",
    "attention.value_length", "attention.layer_norm_rms_epsilon", "attention.causal",
    "rope.dimension_count", "rope.freq_base",
    "rope.scaling.type", "rope.scaling.factor", "rope.scale_linear", "rope.scaling.attn_factor",
    # Of no effect: what the model was trained for, and what the layout of Llama's rows is called.
    "rope.scaling.original_context_length", "rope.scaling.finetuned", "tensor_data_layout",
    "attention.layer_norm_epsilon", "pooling_type",
    "attention.sliding_window", "expert_count",
}  # fmt: skip
"""Keys of an architecture; any other would be ignored, so it is refused."""
_OWN = {
    "llama": {"expert_used_count", "expert_feed_forward_length"},
    "qwen3moe": {"expert_used_count", "expert_feed_forward_length"},
    "gemma2": {"attn_logit_softcapping", "final_logit_softcapping"},
    "gemma3": {"final_logit_softcapping", "rope.freq_base_swa"},
}
"""Those that only some have."""
_GEMMA_27B = {"gemma2": 46, "gemma3": 62}
"""Layers of the ones whose scores have another scale; a file does not say it."""


def config_from_gguf(
    metadata: Mapping[str, Any],
    tensors: frozenset[str],
    rope_divisors: tuple[float, ...] = (),
    where: str = "GGUF",
) -> ModelConfig:
    """Check and translate the metadata of a GGUF file.

    `tensors` are the names of the file's tensors; `rope_divisors` the contents of its
    `rope_freqs.weight`, where Llama 3.1's scaling is stored. UsageError names what is missing or
    unsupported.
    """
    try:
        return _config(metadata, tensors, rope_divisors, where)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UsageError(f"{where}: a value of another form: {str(error)[:200]}") from error


def _config(
    metadata: Mapping[str, Any],
    tensors: frozenset[str],
    rope_divisors: tuple[float, ...],
    where: str,
) -> ModelConfig:
    architecture = str(metadata.get("general.architecture"))
    if architecture not in _ARCHITECTURES:
        raise UsageError(
            f"{where}: architecture {architecture!r} is not supported; "
            f"supported: {', '.join(_ARCHITECTURES)}"
        )

    def get(name: str, default: Any = None) -> Any:
        return metadata.get(f"{architecture}.{name}", default)

    def need(name: str) -> Any:
        value = get(name)
        if value is None:
            raise UsageError(f"{where}: {architecture}.{name} is missing")
        return value

    if get("expert_count") and architecture not in _EXPERTS:
        raise UsageError(f"{where}: experts are not supported for {architecture}")
    if get("attention.sliding_window") and architecture not in _WINDOWS:
        raise UsageError(f"{where}: a sliding window is not supported for {architecture}")
    if get("attention.causal", True) is not True:
        raise UsageError(f"{where}: {architecture}.attention.causal is false; it is not supported")
    for key, value in metadata.items():
        name = key.removeprefix(f"{architecture}.")
        # What is zero, false or empty changes nothing.
        if name != key and name not in _KNOWN | _OWN.get(architecture, set()) and value:
            raise UsageError(f"{where}: {key} is {str(value)[:40]}; it is not supported")
    hidden, heads = int(need("embedding_length")), int(need("attention.head_count"))
    head_dim = int(get("attention.key_length", hidden // heads))
    for name in ("attention.value_length", "rope.dimension_count"):
        if int(get(name, head_dim)) != head_dim:
            raise UsageError(f"{where}: {architecture}.{name} differs from head size {head_dim}")
    tokens = metadata.get("tokenizer.ggml.tokens") or ()
    layers, rope = int(need("block_count")), f"{where}: {architecture}"
    divisors, magnitude = _scaling(get, rope_divisors, head_dim, rope)
    if magnitude != 1 and architecture in _GEMMA_27B:
        raise UsageError(f"{rope}.rope.scaling.type 'yarn' is not supported")
    name = "mixtral" if architecture == "llama" and get("expert_count") else architecture
    return ModelConfig(
        architecture=_ARCHITECTURES.get(name, name),
        layers=layers,
        hidden=hidden,
        intermediate=int(need("feed_forward_length")),
        heads=heads,
        kv_heads=int(get("attention.head_count_kv", heads)),
        head_dim=head_dim,
        vocab=int(get("vocab_size", len(tokens))),
        max_positions=int(need("context_length")),
        rms_eps=float(need("attention.layer_norm_rms_epsilon")),
        rope_theta=float(get("rope.freq_base", 10000.0)),
        rope_divisors=divisors,
        tied_embeddings="output.weight" not in tensors,
        qkv_bias=architecture == "qwen2",
        qk_norm=architecture in ("qwen3", "qwen3moe", "gemma3"),
        dtype="float32",
        **_gemma(get, architecture, layers, hidden, heads),
        **(_experts(get, need) if get("expert_count") else {}),
        **({"score_scale": magnitude**2 * head_dim**-0.5} if magnitude != 1 else {}),
        **_window(get, architecture, layers),
    )


def _experts(get: Callable[..., Any], need: Callable[[str], Any]) -> dict[str, Any]:
    """As llama.cpp computes both kinds of mixture: the weights of a token's experts sum to 1."""
    return {
        "experts": int(get("expert_count")),
        "experts_per_token": int(need("expert_used_count")),
        "expert_intermediate": int(
            get("expert_feed_forward_length") or need("feed_forward_length")
        ),
        "normalize_experts": True,
    }


def _window(get: Callable[..., Any], architecture: str, layers: int) -> dict[str, Any]:
    """The window and its layers; llama.cpp knows Gemma's pattern, a file does not say it."""
    usual = 4096 if architecture == "gemma2" else 0
    window = int(get("attention.sliding_window", usual))
    if not window:
        return {}
    period = {"gemma2": 2, "gemma3": 6}.get(architecture, layers + 1)
    windowed = tuple(layer for layer in range(layers) if (layer + 1) % period)
    return {"window": window, "windowed_layers": windowed}


def _gemma(
    get: Callable[..., Any], architecture: str, layers: int, hidden: int, heads: int
) -> dict[str, Any]:
    """What llama.cpp knows of Gemma; the converter has put the 1 into the norms' weights."""
    if architecture not in _GEMMA_27B:
        return {}
    found: dict[str, Any] = {
        "gelu": True,
        "output_norms": True,
        "embedding_scale": hidden**0.5,
    }
    # Where a key is missing, llama.cpp's own.
    if architecture == "gemma3":
        found["windowed_rope_theta"] = float(get("rope.freq_base_swa", 10000.0))
        found["logit_cap"] = float(get("final_logit_softcapping", 0.0))
    else:
        found["score_cap"] = float(get("attn_logit_softcapping", 50.0))
        found["logit_cap"] = float(get("final_logit_softcapping", 30.0))
    if layers == _GEMMA_27B[architecture]:
        found["score_scale"] = (hidden / heads) ** -0.5
    return found


def _scaling(
    get: Callable[..., Any], stored: tuple[float, ...], head_dim: int, where: str
) -> tuple[tuple[float, ...], float]:
    """Divisors of the rotary frequencies, the file's own times those of a scaling, and YaRN's
    magnitude of queries and keys.

    As in llama.cpp, a scaling without a type is linear, and an older name of its factor counts.
    """
    kind = get("rope.scaling.type", "linear")
    if kind not in ("none", "linear", "yarn"):
        raise UsageError(f"{where}.rope.scaling.type {kind!r} is not supported")
    if get("rope.scaling.attn_factor", 1.0) != 1:
        raise UsageError(f"{where}.rope.scaling.attn_factor is not supported")
    factor = float(get("rope.scaling.factor", get("rope.scale_linear", 0.0)) or 1.0)
    if kind == "none" or factor == 1:
        return stored, 1.0
    plain = stored or (1.0,) * (head_dim // 2)
    if kind == "linear":
        return tuple(divisor * factor for divisor in plain), 1.0
    original = get("rope.scaling.original_context_length") or get("context_length")
    theta = float(get("rope.freq_base", 10000.0))
    yarn = yarn_divisors(head_dim, theta, factor, float(original))
    both = tuple(a * b for a, b in zip(plain, yarn, strict=True))
    return both, yarn_magnitude(factor)
