"""A Hugging Face config.json, as transformers 4 and 5 write it, to a ModelConfig."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foundryrt.errors import UsageError
from parse_runtime.models.config import LARGEST, ModelConfig, llama3_divisors

_ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
}
# transformers' own, where a config.json does not have them.
_HEAD_DIM = {"qwen3": 128}
_KV_HEADS = {"qwen2": 32, "qwen3": 32, "qwen3_moe": 4}
_DTYPES = ("float32", "bfloat16", "float16")


def read_text(path: Path) -> str:
    """A file's text; UsageError for a pointer that Git LFS has left in its place."""
    text = path.read_text(encoding="utf-8")
    if text.startswith("version https://git-lfs."):
        raise UsageError(f"{path}: a pointer of Git LFS, not the file itself: git lfs pull")
    return text


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; UsageError names the file when it is missing or is no object."""
    try:
        value = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path}: a JSON object is expected")
    return value


def config_from_hf(values: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
    """Check and translate a config.json; UsageError names what is missing or unsupported."""
    try:
        return _config(values, where)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UsageError(f"{where}: a value of another form: {str(error)[:200]}") from error


def _config(values: Mapping[str, Any], where: str) -> ModelConfig:
    def need(name: str) -> Any:
        if values.get(name) is None:
            raise UsageError(f"{where}: {name!r} is missing")
        return values[name]

    def size(name: str, default: int = 0) -> int:
        value = int(values.get(name) or default or need(name))
        if value > LARGEST:
            raise UsageError(f"{where}: {name!r} is more than {LARGEST}")
        return value

    architecture = _architecture(values, where)
    _refuse_unsupported(values, architecture, where)
    layers, heads = size("num_hidden_layers"), size("num_attention_heads")
    hidden = size("hidden_size")
    head_dim = size("head_dim", _HEAD_DIM.get(architecture, hidden // heads))
    theta, divisors = _rope(values, head_dim, where)
    dtype = str(values.get("dtype") or values.get("torch_dtype") or "float32")
    if dtype not in _DTYPES:
        raise UsageError(f"{where}: dtype {dtype!r} is not supported; one of {', '.join(_DTYPES)}")
    mixture = architecture == "qwen3_moe"
    return ModelConfig(
        architecture=architecture,
        layers=layers,
        hidden=hidden,
        intermediate=size("intermediate_size"),
        heads=heads,
        kv_heads=_kv_heads(values, architecture, heads),
        head_dim=head_dim,
        vocab=size("vocab_size"),
        max_positions=size("max_position_embeddings"),
        rms_eps=float(need("rms_norm_eps")),
        rope_theta=theta,
        rope_divisors=divisors,
        tied_embeddings=bool(values.get("tie_word_embeddings", False)),
        qkv_bias=architecture == "qwen2",
        qk_norm=architecture in ("qwen3", "qwen3_moe"),
        dtype=dtype,
        **(_mixture(values, layers, where) if mixture else {}),
    )


def _kv_heads(values: Mapping[str, Any], architecture: str, heads: int) -> int:
    """What is null is as many as there are heads; what is missing, the architecture's default."""
    if "num_key_value_heads" in values:
        return int(values["num_key_value_heads"] or heads)
    return _KV_HEADS.get(architecture, heads)


def _mixture(values: Mapping[str, Any], layers: int, where: str) -> dict[str, Any]:
    """The experts of a qwen3_moe; layer i has them where decoder_sparse_step divides i + 1."""
    try:
        # transformers 5 writes the name that its other mixtures have.
        experts = int(values.get("num_experts") or values["num_local_experts"])
        chosen = int(values["num_experts_per_tok"])
        intermediate = int(values["moe_intermediate_size"])
    except KeyError as error:
        raise UsageError(f"{where}: {error} is missing") from error
    step = int(values.get("decoder_sparse_step") or 1)
    plain = {int(layer) for layer in values.get("mlp_only_layers") or ()}
    plain |= {layer for layer in range(layers) if (layer + 1) % step}
    return {
        "experts": experts,
        "experts_per_token": chosen,
        "expert_intermediate": intermediate,
        "normalize_experts": bool(values.get("norm_topk_prob", False)),
        "dense_layers": tuple(sorted(plain)),
    }


def _architecture(values: Mapping[str, Any], where: str) -> str:
    names = values.get("architectures") or []
    for name in names:
        if name in _ARCHITECTURES:
            return _ARCHITECTURES[name]
    if names:
        raise UsageError(
            f"{where}: architecture {', '.join(map(str, names))} is not supported; "
            f"supported: {', '.join(_ARCHITECTURES)}"
        )
    model_type = values.get("model_type")
    if model_type not in _ARCHITECTURES.values():
        raise UsageError(f"{where}: model_type {model_type!r} is not supported")
    return str(model_type)


def _refuse_unsupported(values: Mapping[str, Any], architecture: str, where: str) -> None:
    activation = values.get("hidden_act", "silu")
    if activation != "silu":
        raise UsageError(f"{where}: hidden_act {activation!r} is not supported; only 'silu' is")
    for name in ("num_experts", "num_local_experts", "n_routed_experts"):
        if values.get(name) and architecture != "qwen3_moe":
            raise UsageError(f"{where}: {name} is set; of mixtures only qwen3_moe is supported")
    sliding = "sliding_attention" in (values.get("layer_types") or [])
    if values.get("use_sliding_window") or sliding:
        raise UsageError(f"{where}: sliding window attention is active; it is not supported")
    if values.get("quantization_config"):
        raise UsageError(f"{where}: quantization_config is set; take the unquantized weights")
    if values.get("attention_bias") and architecture != "qwen2":
        raise UsageError(f"{where}: attention_bias is not supported for {architecture}")
    if values.get("mlp_bias"):
        raise UsageError(f"{where}: mlp_bias is not supported")
    partial = values.get("partial_rotary_factor")
    if partial not in (None, 1, 1.0):
        raise UsageError(f"{where}: partial_rotary_factor {partial} is not supported")


def _rope(values: Mapping[str, Any], head_dim: int, where: str) -> tuple[float, tuple[float, ...]]:
    """transformers 5 keeps theta inside `rope_parameters`, 4 beside `rope_scaling`.

    Where a config.json has both, `rope_scaling` counts, as in transformers 5.
    """
    name = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"
    rope = dict(values.get(name) or {})
    theta = float(rope.get("rope_theta") or values.get("rope_theta") or 10000.0)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if rope.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise UsageError(f"{where}: {name}: partial_rotary_factor is not supported")

    def need(key: str, default: Any = None) -> float:
        value = rope.get(key, default)
        if value is None:
            raise UsageError(f"{where}: {name}: rope scaling {kind!r} lacks {key!r}")
        return float(value)

    if kind == "default":
        return theta, ()
    if kind == "linear":
        return theta, (need("factor"),) * (head_dim // 2)
    if kind != "llama3":
        raise UsageError(
            f"{where}: {name}: rope scaling {kind!r} is not supported; only 'linear' and "
            "'llama3' are"
        )
    original = need("original_max_position_embeddings", values.get("max_position_embeddings"))
    low, high = need("low_freq_factor"), need("high_freq_factor")
    return theta, llama3_divisors(head_dim, theta, need("factor"), low, high, int(original))
