"""Tiny random models of several architectures, as transformers stores them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from parse_models import VOCAB, save_text

END = 260
_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 128, "initializer_range": 0.2,
}  # fmt: skip
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "qwen3": ("Qwen3", {"tie_word_embeddings": True}),
    "gemma3": (
        "Gemma3Text",
        {
            "sliding_window": 8, "query_pre_attn_scalar": 8, "tie_word_embeddings": False,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "mistral": ("Mistral", {"sliding_window": 8}),
    "mixtral": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": (
        "Qwen3Moe", {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    ),
    "gpt2": ("GPT2", {"n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 128}),
}  # fmt: skip
"""By name: transformers' prefix of the classes, and what the configuration has besides."""


def save(folder: Path, kind: str, **changes: Any) -> Any:
    """Write a model with its tokenizer; the model of transformers, to compare with."""
    import transformers

    prefix, own = KINDS[kind]
    values = {"vocab_size": VOCAB, "initializer_range": 0.2} if kind == "gpt2" else _SIZES
    ends = {"eos_token_id": END, "bos_token_id": None, "pad_token_id": None}
    config = getattr(transformers, f"{prefix}Config")(**{**values, **own, **ends, **changes})
    name = {"Gemma3Text": "Gemma3ForCausalLM", "GPT2": "GPT2LMHeadModel"}.get(prefix)
    torch.manual_seed(3)
    model = getattr(transformers, name or f"{prefix}ForCausalLM")(config).eval()
    model.save_pretrained(folder)
    save_text(folder)
    return model
