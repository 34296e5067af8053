"""A Hugging Face config.json, as transformers 4 and 5 write it, to a ModelConfig."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foundryrt.errors import UsageError
from parse_runtime.models.config import LARGEST, ModelConfig
from parse_runtime.models.hf_quantization import read_scale_block
from parse_runtime.models.hf_rope import Rope, read_rope
from parse_runtime.models.hf_window import read_window

_ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
    "MistralForCausalLM": "mistral",
    "MixtralForCausalLM": "mixtral",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3",
}
_GEMMA = ("gemma2", "gemma3")
_MIXTURES = ("qwen3_moe", "mixtral")
# transformers' own, where a config.json does not have them.
_HEAD_DIM = {"qwen3": 128, "gemma2": 256, "gemma3": 256}
_KV_HEADS = {
    "qwen2": 32, "qwen3": 32, "qwen3_moe": 4, "mistral": 8, "mixtral": 8, "gemma2": 4, "gemma3": 4,
}  # fmt: skip
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
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
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
    rope = read_rope(values, architecture, head_dim, where)
    window, windowed = read_window(values, architecture, layers, where)
    dtype = str(values.get("dtype") or values.get("torch_dtype") or "float32")
    if dtype not in _DTYPES:
        raise UsageError(f"{where}: dtype {dtype!r} is not supported; one of {', '.join(_DTYPES)}")
    gemma = architecture in _GEMMA
    return ModelConfig(
        architecture=architecture,
        layers=layers,
        hidden=hidden,
        intermediate=size("intermediate_size"),
        heads=heads,
        kv_heads=_kv_heads(values, architecture, heads),
        head_dim=head_dim,
        vocab=size("vocab_size"),
        max_positions=max(size("max_position_embeddings"), rope.positions),
        rms_eps=float(need("rms_norm_eps")),
        rope_theta=rope.theta,
        rope_divisors=rope.divisors,
        window=window,
        windowed_layers=windowed,
        windowed_rope_theta=rope.windowed_theta,
        tied_embeddings=bool(values.get("tie_word_embeddings", gemma)),
        qkv_bias=architecture == "qwen2",
        qk_norm=architecture in ("qwen3", "qwen3_moe", "gemma3"),
        scale_block=read_scale_block(values, where),
        dtype=dtype,
        **_scores(values, rope, architecture, head_dim),
        **(_mixture(values, architecture, layers, where) if architecture in _MIXTURES else {}),
        embedding_scale=hidden**0.5 if gemma else 1.0,
        norm_offset=1.0 if gemma else 0.0,
        gelu=gemma,
        output_norms=gemma,
    )


def _scores(
    values: Mapping[str, Any], rope: Rope, architecture: str, head_dim: int
) -> dict[str, Any]:
    """Scales and caps of attention scores and logits.

    YaRN's magnitude of queries and keys is part of the scale: they rotate as a whole.
    """
    gemma = architecture in _GEMMA
    # transformers' own, where a config.json does not have them.
    width = float(values.get("query_pre_attn_scalar") or 256) if gemma else head_dim
    usual = width == head_dim and rope.magnitude == 1
    found = {"score_scale": 0.0 if usual else rope.magnitude**2 * width**-0.5}
    if gemma:
        caps = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
        found["score_cap"], found["logit_cap"] = (
            float(values.get(name, default if architecture == "gemma2" else 0.0) or 0.0)
            for name, default in caps.items()
        )
    return found


def _kv_heads(values: Mapping[str, Any], architecture: str, heads: int) -> int:
    """What is null is as many as there are heads; what is missing, the architecture's default."""
    if "num_key_value_heads" in values:
        return int(values["num_key_value_heads"] or heads)
    return _KV_HEADS.get(architecture, heads)


def _mixture(
    values: Mapping[str, Any], architecture: str, layers: int, where: str
) -> dict[str, Any]:
    """The experts; layer i of a qwen3_moe has them where decoder_sparse_step divides i + 1."""
    qwen = architecture == "qwen3_moe"
    try:
        # transformers 5 writes the name that its other mixtures have.
        experts = int(values.get("num_experts") or values["num_local_experts"])
        chosen = int(values["num_experts_per_tok"])
        intermediate = int(values["moe_intermediate_size" if qwen else "intermediate_size"])
    except KeyError as error:
        raise UsageError(f"{where}: {error} is missing") from error
    if not qwen:
        return {
            "experts": experts,
            "experts_per_token": chosen,
            "expert_intermediate": intermediate,
            "normalize_experts": True,
        }
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
    if model_type == "gemma3_text":
        return "gemma3"
    if model_type not in _ARCHITECTURES.values() or model_type == "gemma3":
        raise UsageError(f"{where}: model_type {model_type!r} is not supported")
    return str(model_type)


def _refuse_unsupported(values: Mapping[str, Any], architecture: str, where: str) -> None:
    gemma = architecture in _GEMMA
    name, usual = ("hidden_activation", "gelu_pytorch_tanh") if gemma else ("hidden_act", "silu")
    activation = values.get(name) or usual
    if activation != usual:
        raise UsageError(f"{where}: {name} {activation!r} is not supported; only {usual!r} is")
    for name in ("num_experts", "num_local_experts", "n_routed_experts"):
        if values.get(name) and architecture not in _MIXTURES:
            raise UsageError(
                f"{where}: {name} is set; of mixtures only {' and '.join(_MIXTURES)} are supported"
            )
    if architecture == "gemma3" and values.get("attn_logit_softcapping"):
        # transformers ignores it, so there is nothing to be compared with.
        raise UsageError(f"{where}: attn_logit_softcapping is not supported for gemma3")
    if values.get("use_bidirectional_attention"):
        raise UsageError(f"{where}: use_bidirectional_attention is not supported")
    if values.get("attention_bias") and architecture != "qwen2":
        raise UsageError(f"{where}: attention_bias is not supported for {architecture}")
    if values.get("mlp_bias"):
        raise UsageError(f"{where}: mlp_bias is not supported")
    partial = values.get("partial_rotary_factor")
    if partial not in (None, 1, 1.0):
        raise UsageError(f"{where}: partial_rotary_factor {partial} is not supported")
