"""Configurations, chat suffixes, tokenizers of GGUF metadata and streaming text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers import Tokenizer as Inner

from foundryrt.errors import UsageError
from parse_runtime.models.config import ModelConfig
from parse_runtime.models.gguf_config import config_from_gguf
from parse_runtime.models.hf_config import config_from_hf
from parse_runtime.text.byte_stream import ByteStream
from parse_runtime.text.chat import Chat
from parse_runtime.text.gguf_tokenizer import tokenizer_from_gguf
from parse_runtime.text.tokenizer import TextStream, Tokenizer

V4 = {
    "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 2, "vocab_size": 1000, "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "torch_dtype": "bfloat16",
    "tie_word_embeddings": True,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                     "high_freq_factor": 4.0, "original_max_position_embeddings": 512},
}  # fmt: skip
GGUF = {
    "general.architecture": "qwen2", "qwen2.block_count": 2, "qwen2.embedding_length": 64,
    "qwen2.feed_forward_length": 128, "qwen2.attention.head_count": 8,
    "qwen2.attention.head_count_kv": 2, "qwen2.context_length": 2048,
    "qwen2.attention.layer_norm_rms_epsilon": 1e-6, "qwen2.rope.freq_base": 1e6,
    "tokenizer.ggml.tokens": ["a", "b"],
}  # fmt: skip


def test_both_forms_of_config_json_say_the_same() -> None:
    v5 = {k: v for k, v in V4.items() if k not in ("rope_theta", "torch_dtype", "rope_scaling")}
    v5["rope_parameters"] = {**V4["rope_scaling"], "rope_theta": 500000.0}
    v5["dtype"] = "bfloat16"
    config = config_from_hf(V4)
    assert config == config_from_hf(v5)
    assert (config.head_dim, config.group, config.dtype) == (8, 4, "bfloat16")
    assert config.rope_theta == 500000 and config.tied_embeddings
    # High frequencies are kept, low ones divided by the factor.
    assert config.rope_divisors[0] == 1 and config.rope_divisors[-1] == pytest.approx(8)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"architectures": ["PhiForCausalLM"]}, "PhiForCausalLM"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"use_sliding_window": True}, "sliding window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding window"),
        ({"num_experts": 8}, "num_experts"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "'yarn' lacks 'factor'"),
        ({"architectures": ["MixtralForCausalLM"]}, "num_local_experts"),
        (
            {"architectures": ["MistralForCausalLM"], "layer_types": ["full_attention"]},
            "layer_types.*mistral",
        ),
        (
            {"architectures": ["Gemma3ForCausalLM"], "hidden_activation": "gelu"},
            "hidden_activation 'gelu'",
        ),
        (
            {"architectures": ["Gemma3ForCausalLM"], "attn_logit_softcapping": 50.0},
            "attn_logit_softcapping",
        ),
        ({"architectures": ["Gemma3ForConditionalGeneration"]}, "ConditionalGeneration"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling.*dynamic"),
        (
            {
                "rope_scaling": {"rope_type": "longrope", "factor": 4.0},
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
            },
            "rope_scaling.*longrope",
        ),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.*'linear' lacks 'factor'"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"attention_bias": True}, "attention_bias"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"torch_dtype": "float8"}, "float8"),
        ({"vocab_size": None}, "vocab_size"),
        ({"num_key_value_heads": 3}, "3 key-value heads"),
    ],
)
def test_what_is_not_supported_is_named(change: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        config_from_hf({**V4, **change})


def test_gguf_metadata() -> None:
    config = config_from_gguf(GGUF, frozenset())
    assert config == ModelConfig(
        architecture="qwen2", layers=2, hidden=64, intermediate=128, heads=8, kv_heads=2,
        head_dim=8, vocab=2, max_positions=2048, rms_eps=1e-6, rope_theta=1e6,
        tied_embeddings=True, qkv_bias=True,
    )  # fmt: skip
    assert not config_from_gguf(GGUF, frozenset({"output.weight"})).tied_embeddings
    for change, named in (
        ({"general.architecture": "gemma"}, "gemma"),
        ({"qwen2.expert_count": 4}, "experts"),
        ({"qwen2.rope.scaling.type": "longrope"}, "longrope"),
        ({"qwen2.attention.sliding_window": 8}, "sliding window"),
        ({"qwen2.block_count": None}, "block_count"),
    ):
        with pytest.raises(UsageError, match=named):
            config_from_gguf({**GGUF, **change}, frozenset())


@pytest.mark.parametrize(
    ("keys", "divisor"),
    [
        ({"rope.scaling.factor": 4.0}, 4.0),
        ({"rope.scale_linear": 2.0}, 2.0),
        (
            {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0, "rope.scale_linear": 2.0},
            4.0,
        ),
        ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, None),
        ({"rope.scaling.factor": 0.0}, None),
        ({"rope.scaling.original_context_length": 512, "rope.scaling.finetuned": True}, None),
    ],
)
def test_gguf_linear_scaling_is_that_of_llama_cpp(
    keys: dict[str, object], divisor: float | None
) -> None:
    changed = {**GGUF, **{f"qwen2.{name}": value for name, value in keys.items()}}
    expected = () if divisor is None else (divisor,) * 4
    assert config_from_gguf(changed, frozenset()).rope_divisors == expected
    if divisor:
        own = config_from_gguf(changed, frozenset(), (1.0, 1.0, 8.0, 8.0)).rope_divisors
        assert own == (divisor, divisor, 8 * divisor, 8 * divisor)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rope.scaling.type", "longrope"), ("rope.scaling.attn_factor", 0.9),
        ("rope.scaling.yarn_ext_factor", 1.0), ("attention.causal", False),
        ("final_logit_softcapping", 30.0), ("attention.clamp_kqv", 8.0), ("expert_count", 4),
        ("unheard.of", [1]),
    ],
)  # fmt: skip
def test_gguf_keys_that_would_be_ignored_are_refused(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=name if name[:6] != "expert" else "experts") as refused:
        config_from_gguf({**GGUF, f"qwen2.{name}": value}, frozenset())
    assert "\n" not in str(refused.value)


def test_yarn_is_the_same_in_both_forms() -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    qwen2 = {**V4, "architectures": ["Qwen2ForCausalLM"], "rope_theta": 1e6}
    ours = config_from_hf({**qwen2, "rope_scaling": scaling})
    keys = {"type": "yarn", "factor": 4.0, "original_context_length": 512}
    gguf = {**GGUF, **{f"qwen2.rope.scaling.{name}": value for name, value in keys.items()}}
    found = config_from_gguf(gguf, frozenset())
    assert found.rope_divisors == ours.rope_divisors and found.score_scale == ours.score_scale
    assert ours.score_scale > 8**-0.5 and ours.max_positions == 2048
    long = config_from_hf({**qwen2, "rope_scaling": {**scaling, "factor": 8.0}})
    assert long.max_positions == 4096


def test_what_a_config_does_not_say_is_as_in_transformers() -> None:
    qwen3 = {**V4, "architectures": ["Qwen3ForCausalLM"], "num_attention_heads": 64}
    assert config_from_hf(qwen3).head_dim == 128
    assert config_from_hf({**qwen3, "head_dim": 16}).head_dim == 16
    unsaid = {name: value for name, value in qwen3.items() if name != "num_key_value_heads"}
    assert config_from_hf(unsaid).kv_heads == 32
    assert config_from_hf({**unsaid, "num_key_value_heads": None}).kv_heads == 64
    llama = {name: value for name, value in V4.items() if name != "num_key_value_heads"}
    assert config_from_hf(llama).kv_heads == 8


TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_judge_suffix_continues_the_answer() -> None:
    chat = Chat(TEMPLATE, {"eos_token": "</>"}, (2,))
    assert chat.prompt("2+2?") == "<user>2+2?</><assistant>"
    assert chat.judge_suffix("2+2?", "OK?") == "</><user>OK?</><assistant>"
    assert Chat.from_dict(chat.to_dict()) == chat


def test_an_answer_may_open_with_an_empty_thought() -> None:
    thinking = TEMPLATE.replace(
        "<assistant>{%", "<assistant>{% if not enable_thinking %}<think></think>{% endif %}{%"
    )
    chat = Chat(thinking, {"eos_token": "</>"}, (2,))
    assert chat.prompt("2+2?", enable_thinking=False).endswith("<assistant><think></think>")
    assert chat.prompt("2+2?", enable_thinking=True).endswith("<assistant>")
    for wanted in (False, True):
        suffix = chat.judge_suffix("2+2?", "OK?", enable_thinking=wanted)
        assert suffix == "</><user>OK?</><assistant><think></think>"


def test_an_answers_opening_must_not_hide_what_came_before() -> None:
    last = "{% for m in messages[-2:] %}{{ m.content }}{% endfor %}"
    with pytest.raises(UsageError, match="unchanged"):
        Chat(last, {}, ()).judge_suffix("2+2?", "OK?")


def test_template_that_rewrites_history_is_refused() -> None:
    rewriting = "{{ messages | length }}" + TEMPLATE
    with pytest.raises(UsageError, match="unchanged"):
        Chat(rewriting, {}, ()).judge_suffix("2+2?", "OK?")
    with pytest.raises(UsageError, match="--chat-template"):
        Chat("", {}, ()).prompt("x")
    with pytest.raises(UsageError, match="roles"):
        Chat("{{ raise_exception('roles') }}", {}, ()).prompt("x")
    with pytest.raises(UsageError, match="fails"):
        Chat("{{ ''.__class__.__mro__ }}", {}, ()).prompt("x")


def metadata(pre: str) -> dict[str, object]:
    from tokenizers import pre_tokenizers

    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "he", "11", "<end>"]
    return {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": ["h e", "1 1"],
        "tokenizer.ggml.token_type": [1] * (len(tokens) - 1) + [3],
    }  # fmt: skip


def test_gguf_tokenizer_merges_and_special_tokens() -> None:
    one_by_one = Tokenizer.from_json(tokenizer_from_gguf(metadata("smollm"), "x"))
    grouped = Tokenizer.from_json(tokenizer_from_gguf(metadata("llama-bpe"), "x"))
    assert one_by_one.encode("he<end>") == [256, 258] == grouped.encode("he<end>")
    assert len(one_by_one.encode("11")) == 2 and grouped.encode("11") == [257]
    assert one_by_one.decode([256, 258]) == "he"
    assert one_by_one.same_tokens(grouped)
    with pytest.raises(UsageError, match="2 tokens"):
        grouped.single("hi")


@pytest.mark.parametrize(
    ("key", "value"), [("tokenizer.ggml.model", "llama"), ("tokenizer.ggml.pre", "tekken")]
)
def test_other_gguf_tokenizers_are_refused_by_name(key: str, value: str) -> None:
    with pytest.raises(UsageError, match=value):
        tokenizer_from_gguf({**metadata("smollm"), key: value}, "x")


def test_the_form_that_is_read_soonest_is_the_same_tokenizer() -> None:
    quick = BYTES.quick_json()
    assert '"h e"' in quick and '"h e"' not in BYTES.to_json()
    assert Tokenizer.from_json(quick).to_json() == BYTES.to_json()
    # A merge of a part with a space cannot be a text of two parts.
    found = json.loads(BYTES.to_json())
    model = found["model"]
    model["vocab"] |= {" ": 300, " h": 301}
    model["merges"].append([" ", "h"])
    spaced = Tokenizer.from_json(json.dumps(found))
    assert spaced.quick_json() == spaced.to_json()


def test_a_damaged_gguf_tokenizer_is_refused() -> None:
    damaged = {**metadata("smollm"), "tokenizer.ggml.merges": ["x y"]}
    with pytest.raises(UsageError, match="damaged"):
        tokenizer_from_gguf(damaged, "x")


BYTES = Tokenizer.from_json(tokenizer_from_gguf(metadata("qwen2"), "x"))


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd")))
def test_streamed_text_never_holds_half_a_character(text: str) -> None:
    tokens = BYTES.encode(text)
    for stream in (BYTES.stream(), TextStream(BYTES)):
        pieces = [stream.push(token) for token in tokens]
        assert all("\ufffd" not in piece for piece in pieces)
        assert "".join(pieces) == BYTES.decode(tokens)


ADDED = Inner.from_str(BYTES.to_json())
ADDED.add_tokens([AddedToken("<tool call>"), AddedToken("<tool>"), AddedToken("\u00e9")])
ADDED.add_special_tokens([AddedToken("<pad>", special=True)])
WITH_ADDED = Tokenizer(ADDED)
tokens_of_added = st.lists(st.integers(0, WITH_ADDED.size + 2), max_size=12)


@given(tokens_of_added, tokens_of_added)
def test_text_of_bytes_is_that_of_all_together(tokens: list[int], more: list[int]) -> None:
    stream = WITH_ADDED.stream()
    assert isinstance(stream, ByteStream)
    begun = "".join(stream.push(token) for token in tokens)
    fork = stream.fork()
    for ahead in (fork, stream):
        end = "".join(ahead.push(token) for token in more) + ahead.rest()
        assert begun + end == WITH_ADDED.decode([*tokens, *more])


def test_ids_with_gaps_and_text_that_is_no_unicode() -> None:
    vocabulary = {"a": 0, "b": 7}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "a"}
    tokenizer = Tokenizer.from_json(json.dumps({"version": "1.0", "model": model}))
    assert tokenizer.size == 8 and tokenizer.encode("b") == [7]
    assert [token for token in range(-2, 10) if tokenizer.has(token)] == [*range(8)]
    for ids, same in (({"a": 0, "b": 7}, True), ({"a": 0, "b": 6}, False)):
        other = json.dumps({"version": "1.0", "model": model | {"vocab": ids}})
        assert tokenizer.same_tokens(Tokenizer.from_json(other)) is same
    with pytest.raises(UsageError, match="Unicode"):
        tokenizer.encode("a\udcff")
