"""Models' configurations, tokenizers and chat templates of another form: UsageError alone."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st

from foundryrt.errors import UsageError
from parse_runtime.models.gguf_config import config_from_gguf
from parse_runtime.models.hf_config import config_from_hf, read_json
from parse_runtime.text.assets import assets_from_gguf, assets_from_hf
from parse_runtime.text.chat import Chat
from parse_runtime.text.tokenizer import Tokenizer

ROPE = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 8, "head_dim": 8,
    "num_key_value_heads": 2, "vocab_size": 1000, "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5, "rope_theta": 5e5, "rope_scaling": ROPE, "num_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1,
    "mlp_only_layers": [0], "layer_types": ["full_attention"], "dtype": "float32",
}  # fmt: skip
METADATA: dict[str, Any] = {
    "general.architecture": "qwen2", "qwen2.block_count": 2, "qwen2.embedding_length": 64,
    "qwen2.feed_forward_length": 128, "qwen2.attention.head_count": 8,
    "qwen2.attention.head_count_kv": 2, "qwen2.context_length": 2048,
    "qwen2.attention.layer_norm_rms_epsilon": 1e-6, "qwen2.rope.freq_base": 1e6,
    "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": ["a", "b", "ab"], "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.token_type": [1, 1, 3], "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.bos_token_id": 0, "tokenizer.chat_template": "{{ messages }}",
}  # fmt: skip
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(), max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@given(st.sampled_from([*CONFIG, *ROPE]), VALUES)
@example("num_hidden_layers", 1 << 62)
@example("head_dim", 1 << 62)
@example("num_attention_heads", 0)
@example("rope_theta", -1.0)
@example("factor", 1e-320)
def test_config_json(name: str, value: object) -> None:
    with contextlib.suppress(UsageError):
        rope = {**ROPE, name: value} if name in ROPE else ROPE
        config_from_hf({**CONFIG, "rope_scaling": rope, name: value}).inverse_frequencies()


@given(st.sampled_from(list(METADATA)), VALUES)
@example("qwen2.attention.head_count", 0)
@example("tokenizer.ggml.merges", "gpt-2")
@example("tokenizer.ggml.merges", ["b ab"])
def test_gguf_metadata(name: str, value: object) -> None:
    metadata = {**METADATA, name: value}
    with contextlib.suppress(UsageError):
        config_from_gguf(metadata, frozenset())
    try:
        assets_from_gguf(metadata, "model.gguf")
    except UsageError as error:
        assert "\n" not in str(error)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    model = tokenizers.models.BPE(vocab={"a": 0, "b": 1, "<e>": 2}, merges=[])
    tokenizers.Tokenizer(model).save(str(path / "tokenizer.json"))
    return path


@given(
    st.fixed_dictionaries({"eos_token": VALUES, "bos_token": VALUES, "chat_template": VALUES}),
    VALUES,
)
@example({"chat_template": [{"name": "default"}]}, [2])
@example({"eos_token": {"content": "\ud800"}}, 2)
@example({"eos_token": "<e>"}, [1, "2", 0.5])
def test_tokenizer_config(folder: Path, config: dict[str, object], ids: object) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    with contextlib.suppress(UsageError):
        chat = assets_from_hf(folder).chat
        assert all(isinstance(stop, int) for stop in chat.stops)
        json.dumps(chat.to_dict(), ensure_ascii=False).encode()


@pytest.mark.parametrize("data", [b"[" * 100_000, b"\xff", b"[]", b'{"a":'])
def test_files_that_are_no_json_object(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=str(path)):
        read_json(path)


def test_a_merge_that_panics_inside_the_package() -> None:
    model = {"type": "BPE", "vocab": {"": 0, "a": 1, "ab": 2}, "merges": [["", "a"]],
             "continuing_subword_prefix": "##"}  # fmt: skip
    with pytest.raises(UsageError, match=r"tokenizer\.json cannot be read"):
        Tokenizer.from_json(json.dumps({"version": "1.0", "model": model}))


@pytest.mark.parametrize("template", ["{{ 1 / 0 }}", "{{ messages + 1 }}", "{{ 'a' * messages }}"])
def test_templates_that_fail_while_they_run(template: str) -> None:
    with pytest.raises(UsageError, match="the chat template fails"):
        Chat(template, {}, ()).prompt("x")
