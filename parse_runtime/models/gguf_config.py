"""GGUF metadata to a ModelConfig."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from foundryrt.errors import UsageError
from parse_runtime.models.config import ARCHITECTURES, ModelConfig

_KNOWN = {
    "block_count", "embedding_length", "feed_forward_length", "context_length", "vocab_size",
    "attention.head_count", "attention.head_count_kv", "attention.key_length",
    "attention.value_length", "attention.layer_norm_rms_epsilon", "attention.causal",
    "rope.dimension_count", "rope.freq_base",
    "rope.scaling.type", "rope.scaling.factor", "rope.scale_linear", "rope.scaling.attn_factor",
    # Of no effect: what the model was trained for, and what the layout of Llama's rows is called.
    "rope.scaling.original_context_length", "rope.scaling.finetuned", "tensor_data_layout",
    "attention.layer_norm_epsilon", "pooling_type",
}  # fmt: skip
"""Keys of an architecture; any other would be ignored, so it is refused."""


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
    if architecture == "qwen3moe":
        raise UsageError(f"{where}: mixtures of experts are read from safetensors only")
    if architecture not in ARCHITECTURES:
        raise UsageError(
            f"{where}: architecture {architecture!r} is not supported; "
            f"supported: {', '.join(ARCHITECTURES)}"
        )

    def get(name: str, default: Any = None) -> Any:
        return metadata.get(f"{architecture}.{name}", default)

    def need(name: str) -> Any:
        value = get(name)
        if value is None:
            raise UsageError(f"{where}: {architecture}.{name} is missing")
        return value

    if get("expert_count"):
        raise UsageError(f"{where}: mixtures of experts are read from safetensors only")
    if get("attention.sliding_window"):
        raise UsageError(f"{where}: sliding window attention is active; it is not supported")
    if get("attention.causal", True) is not True:
        raise UsageError(f"{where}: {architecture}.attention.causal is false; it is not supported")
    for key, value in metadata.items():
        name = key.removeprefix(f"{architecture}.")
        # What is zero, false or empty changes nothing.
        if name != key and name not in _KNOWN and value:
            raise UsageError(f"{where}: {key} is {str(value)[:40]}; it is not supported")
    hidden, heads = int(need("embedding_length")), int(need("attention.head_count"))
    head_dim = int(get("attention.key_length", hidden // heads))
    for name in ("attention.value_length", "rope.dimension_count"):
        if int(get(name, head_dim)) != head_dim:
            raise UsageError(f"{where}: {architecture}.{name} differs from head size {head_dim}")
    tokens = metadata.get("tokenizer.ggml.tokens") or ()
    return ModelConfig(
        architecture=architecture,
        layers=int(need("block_count")),
        hidden=hidden,
        intermediate=int(need("feed_forward_length")),
        heads=heads,
        kv_heads=int(get("attention.head_count_kv", heads)),
        head_dim=head_dim,
        vocab=int(get("vocab_size", len(tokens))),
        max_positions=int(need("context_length")),
        rms_eps=float(need("attention.layer_norm_rms_epsilon")),
        rope_theta=float(get("rope.freq_base", 10000.0)),
        rope_divisors=_divisors(get, rope_divisors, head_dim, f"{where}: {architecture}"),
        tied_embeddings="output.weight" not in tensors,
        qkv_bias=architecture == "qwen2",
        qk_norm=architecture == "qwen3",
        dtype="float32",
    )


def _divisors(
    get: Callable[..., Any], stored: tuple[float, ...], head_dim: int, where: str
) -> tuple[float, ...]:
    """Of the rotary frequencies: the file's own, times a linear scaling's factor.

    As in llama.cpp, a scaling without a type is linear, and an older name of its factor counts.
    """
    kind = get("rope.scaling.type", "linear")
    if kind not in ("none", "linear"):
        raise UsageError(f"{where}.rope.scaling.type {kind!r} is not supported")
    if get("rope.scaling.attn_factor", 1.0) != 1:
        raise UsageError(f"{where}.rope.scaling.attn_factor is not supported")
    factor = float(get("rope.scaling.factor", get("rope.scale_linear", 0.0)) or 1.0)
    if kind == "none" or factor == 1:
        return stored
    return tuple(divisor * factor for divisor in stored or (1.0,) * (head_dim // 2))
