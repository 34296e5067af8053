"""Raw prompts' BOS, tokens that end an answer, and streamed text of byte-fallback tokenizers."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, processors

from foundryrt.errors import UsageError
from parse_runtime.engine.batch import Sampling
from parse_runtime.engine.prompts import Prompts, Raw, TextFormat
from parse_runtime.engine.rules import Rules
from parse_runtime.text.assets import assets_from_gguf, assets_from_hf
from parse_runtime.text.chat import Chat
from parse_runtime.text.tokenizer import TextStream, Tokenizer
from parse_runtime.text.translation import SameTokens

BOS, EOS, A = 0, 1, 2


def folder(path: Path, adds: bool, truncation: int = 0, **config: object) -> Path:
    inner = tokenizers.Tokenizer(models.BPE(vocab={"<s>": BOS, "</s>": EOS, "a": A}, merges=[]))
    inner.add_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    if adds:
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", BOS)]
        )
    if truncation:
        inner.enable_truncation(truncation)
    inner.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize(
    ("adds", "config", "expected"),
    [
        (True, {}, [BOS, A]),
        (False, {"add_bos_token": True, "bos_token": "<s>"}, [BOS, A]),
        (True, {"add_bos_token": True, "bos_token": "<s>"}, [BOS, A]),
        (False, {"add_bos_token": True}, [A]),
        (False, {"bos_token": "<s>"}, [A]),
    ],
)
def test_raw_prompts_begin_as_the_tokenizer_says(
    adds: bool, config: dict[str, object], expected: list[int], tmp_path: Path
) -> None:
    text = assets_from_hf(folder(tmp_path, adds, **config))
    # As a bundle hands it on.
    tokenizer = Tokenizer.from_json(text.tokenizer.to_json())
    form = TextFormat(tokenizer, Chat("{{ bos_token }}a", {"bos_token": "<s>"}, ()))
    prompts = Prompts(form, form, SameTokens(frozenset()))
    assert prompts.encode(Raw("a")) == expected
    assert prompts.encode(Raw([A])) == [A]
    assert prompts.encode("a") == [BOS, A], "a chat template writes its own"
    echo = TextFormat(tokenizer, Chat("{{ messages[0].content }}", {}, ()))
    for prompt in ("\udcff", Raw("\udcff")):
        with pytest.raises(UsageError, match=r"^a text is not valid Unicode$"):
            Prompts(echo, echo, SameTokens(frozenset())).encode(prompt)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UsageError, match=f"^{tmp_path}.*: tokenizer.json cannot be read"):
        assets_from_hf(tmp_path)


def test_a_prompt_is_never_cut(tmp_path: Path) -> None:
    tokenizer = assets_from_hf(folder(tmp_path, True, truncation=3)).tokenizer
    assert tokenizer.encode("aaaaa", special=True) == [BOS] + [A] * 5


def gguf(**changes: Any) -> dict[str, Any]:
    values = {
        "model": "gpt2", "pre": "gpt-2", "merges": ["a b"], "token_type": [1, 1, 1, 3, 3, 1, 4],
        "tokens": ["a", "b", "ab", "<s>", "<|im_end|>", "<|eot_id|>", "<|end|>"],
        "bos_token_id": 3, **changes,
    }  # fmt: skip
    return {f"tokenizer.ggml.{name}": value for name, value in values.items()}


def test_gguf_bos_and_eos() -> None:
    def encoded(**changes: Any) -> list[int]:
        return assets_from_gguf(gguf(**changes), "x").tokenizer.encode("ab", special=True)

    assert encoded() == [2]
    assert encoded(pre="llama-bpe") == [3, 2]
    assert encoded(pre="llama-bpe", add_bos_token=False) == [2]
    assert encoded(add_bos_token=True, add_eos_token=True, eos_token_id=4) == [3, 2, 4]
    with pytest.raises(UsageError, match="eos_token_id is missing"):
        encoded(add_eos_token=True)


def test_gguf_end_tokens_by_their_text() -> None:
    # An ordinary token of that text ends nothing.
    assert assets_from_gguf(gguf(), "x").chat.stops == (4, 6)
    assert assets_from_gguf(gguf(eos_token_id=0), "x").chat.stops == (0, 4, 6)


def byte_fallback() -> Tokenizer:
    words = ["<s>", "\u2581Hello", "\u2581world", "!"]
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)}
    vocabulary |= {word: 256 + index for index, word in enumerate(words)}
    inner = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    inner.add_tokens([AddedToken("<s>", special=True)])
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return Tokenizer(inner)


S, HELLO, WORLD, MARK = 256, 257, 258, 259


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([HELLO, WORLD, MARK], "Hello world!"),
        ([HELLO, S, WORLD], "Hello world"),
        ([S, S, HELLO, S, S, WORLD, S, MARK], "Hello world!"),
        ([HELLO, 0x0A, WORLD], "Hello\n world"),
        ([HELLO, 0xC3, 0xA9, 0x41, WORLD], "Hello\u00e9A world"),
        # Decoded at once, the run of bytes is no UTF-8; what was shown already stays.
        ([HELLO, 0x41, 0xFF, WORLD], "HelloA\ufffd world"),
        ([0x41, 0xFF, 0xFE, WORLD, S, HELLO], "A\ufffd\ufffd world Hello"),
        ([0x41, 0xE4, 0xBD, HELLO], "A\ufffd\ufffd Hello"),
    ],
)
def test_streamed_bytes_and_skipped_tokens(tokens: list[int], expected: str) -> None:
    tokenizer = byte_fallback()
    stream = tokenizer.stream()
    assert isinstance(stream, TextStream)
    assert "".join(stream.push(token) for token in tokens) == expected


def test_without_drafts_nobody_is_asked_and_no_template_is_needed() -> None:
    tokenizer = byte_fallback()
    text = TextFormat(tokenizer, Chat("", {}, ()))
    prompts = Prompts(text, text, SameTokens(frozenset()))
    for rounds in (0, 1):
        rules = Rules(max_rounds=rounds)
        with nullcontext() if not rounds else pytest.raises(UsageError, match="chat template"):
            asked = prompts.request(Raw([HELLO]), 1, Sampling(), rules)
            assert not asked.suffix and asked.prompt == [HELLO]
