"""GGUF metadata to a ModelConfig."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foundryrt.errors import UsageError
from parse_runtime.models.config import ARCHITECTURES, ModelConfig


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
    scaling = get("rope.scaling.type", "none")
    if scaling != "none":
        raise UsageError(f"{where}: rope scaling {scaling!r} is not supported")
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
        rope_divisors=rope_divisors,
        tied_embeddings="output.weight" not in tensors,
        qkv_bias=architecture == "qwen2",
        qk_norm=architecture == "qwen3",
        dtype="float32",
    )
