"""Chat templates and their special tokens, against transformers."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers

sys.path.insert(0, str(Path(__file__).parent))
from chat_templates import CONVERSATIONS, TEMPLATES

from foundryrt.errors import UsageError
from parse_runtime.text.assets import assets_from_hf

TOKENS = {name: i for i, name in enumerate(["<s>", "</s>", "<pad>", "<unk>", "a", "<|endoftext|>"])}
CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "pad_token": "<pad>",
    "eos_token": {"__type": "AddedToken", "content": "</s>", "lstrip": False, "rstrip": False,
                  "normalized": False, "single_word": False},
    "unk_token": "<unk>", "added_tokens_decoder": {}, "image_token": "<img>",
    "additional_special_tokens": ["a"],
}  # fmt: skip


def write(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    model = tokenizers.models.BPE(vocab=TOKENS, merges=[], unk_token="<unk>")
    tokenizers.Tokenizer(model).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("tokens"), CONFIG)


@pytest.fixture(scope="module")
def oracle(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)


def outcome(render: Any, *arguments: Any, **settings: Any) -> tuple[str, str]:
    try:
        return "text", render(*arguments, **settings)
    except Exception as error:
        return "refused", "" if isinstance(error, UsageError) else type(error).__name__


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_prompts_are_those_of_transformers(
    name: str, conversation: str, folder: Path, oracle: Any
) -> None:
    messages, settings = CONVERSATIONS[conversation]
    chat = replace(assets_from_hf(folder).chat, template=TEMPLATES[name])
    expected = outcome(
        oracle.apply_chat_template, messages, chat_template=TEMPLATES[name], tokenize=False,
        add_generation_prompt=True, **settings,
    )  # fmt: skip
    found = outcome(chat.prompt, messages, **settings)
    assert found[0] == expected[0]
    if found[0] == "text":
        assert found[1] == expected[1]
    else:
        assert found[1] == "", "only UsageError"


LEGACY = {"bos_token": "<s>", "unk_token": {"content": "<unk>", "lstrip": False, "rstrip": False,
          "normalized": False, "single_word": False}}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "legacy"),
    [
        (CONFIG, {}),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, {}),
        ({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "a"}, LEGACY),
        ({**CONFIG, "bos_token": None}, LEGACY),
        ({"tokenizer_class": "Qwen2TokenizerFast"}, {}),
        ({"tokenizer_class": "LlamaTokenizerFast"}, {}),
        ({"tokenizer_class": "GPT2Tokenizer", "eos_token": "</s>"}, {}),
    ],
)
def test_special_tokens_are_those_of_transformers(
    config: dict[str, Any], legacy: dict[str, Any], tmp_path: Path
) -> None:
    write(tmp_path, config)
    if legacy:
        (tmp_path / "special_tokens_map.json").write_text(json.dumps(legacy))
    expected = transformers.AutoTokenizer.from_pretrained(tmp_path).special_tokens_map
    assert assets_from_hf(tmp_path).chat.special == expected


def test_a_template_for_tools_is_taken_with_tools(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    write(tmp_path, {**CONFIG, "chat_template": named})
    expected = transformers.AutoTokenizer.from_pretrained(tmp_path)
    chat = assets_from_hf(tmp_path).chat
    messages = [{"role": "user", "content": "x"}]
    for settings in ({}, {"tools": None}, {"tools": []}):
        assert chat.prompt(messages, **settings) == expected.apply_chat_template(
            messages, tokenize=False, **settings
        )
    expected.save_pretrained(tmp_path)
    assert (tmp_path / "additional_chat_templates" / "tool_use.jinja").exists()
    assert assets_from_hf(tmp_path).chat == chat
