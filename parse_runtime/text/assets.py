"""Tokenizer and chat files of a model, as the bundle carries them."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundryrt.errors import UsageError
from parse_runtime.models.hf_config import read_json, read_text
from parse_runtime.text.chat import Chat
from parse_runtime.text.gguf_tokenizer import tokenizer_from_gguf
from parse_runtime.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextAssets:
    """What makes prompts of texts, and texts of tokens."""

    tokenizer: Tokenizer
    chat: Chat


_SPECIAL = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_GGUF_SPECIAL = {
    "bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "seperator": "sep_token",
    "padding": "pad_token", "cls": "cls_token", "mask": "mask_token",
}  # fmt: skip
_ENDOFTEXT = "<|endoftext|>"
_CLASSES = {
    "LlamaTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "Qwen2Tokenizer": dict.fromkeys(("eos_token", "unk_token", "pad_token"), _ENDOFTEXT),
    "GPT2Tokenizer": dict.fromkeys(("bos_token", "eos_token", "unk_token"), _ENDOFTEXT),
}
"""Special tokens that a `tokenizer_class` has unless tokenizer_config.json says otherwise."""
_ENDS = (
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>",
    "<end_of_turn>", "<end_of_utterance>", "<EOT>", "<|return|>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
)  # fmt: skip
"""Texts by which llama.cpp knows the tokens that end an answer, whatever a GGUF file's ids say."""
_CONTROL, _USER_DEFINED = 3, 4


def assets_from_hf(folder: Path) -> TextAssets:
    """tokenizer.json, the chat template with its special tokens, and the configs' stop tokens.

    UsageError where one is missing or has another form.
    """
    with _expected(str(folder)):
        return _from_hf(folder)


def _from_hf(folder: Path) -> TextAssets:
    path = folder / "tokenizer.json"
    if not path.exists():
        raise UsageError(f"{path} is missing; only models with a fast tokenizer are supported")
    tokenizer = _tokenizer(read_text(path), str(path))
    config = _optional(folder / "tokenizer_config.json")
    if "added_tokens_decoder" not in config:
        config = {**config, **_optional(folder / "special_tokens_map.json")}
    special = _special(config)
    # transformers takes the word of tokenizer.json where that adds tokens itself.
    silent = not tokenizer.encode("", special=True)
    if config.get("add_bos_token") is True and "bos_token" in special and silent:
        tokenizer = tokenizer.adding(special["bos_token"], "")
    stops: set[int] = set()
    for source in (_optional(folder / "generation_config.json"), _optional(folder / "config.json")):
        ids = source.get("eos_token_id")
        listed = ids if isinstance(ids, list) else [] if ids is None else [ids]
        stops |= {operator.index(token) for token in listed}
    if (end := tokenizer.token_id(special.get("eos_token", ""))) is not None:
        stops.add(end)
    return TextAssets(tokenizer, _chat(_hf_templates(folder, config), special, stops))


def _tokenizer(text: str, where: str) -> Tokenizer:
    try:
        return Tokenizer.from_json(text)
    except UsageError as error:
        error.at(where)
        raise


def _special(config: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens of a tokenizer_config.json by name, those of its model alone included."""
    kind = str(config.get("tokenizer_class")).removesuffix("Fast")
    named = {**_CLASSES.get(kind, {}), **config}
    found = {name: _content(named.get(name)) for name in _SPECIAL}
    own = {name: text for name, text in config.items() if name.endswith("_token")}
    extra = config.get("extra_special_tokens")
    own.update(extra if isinstance(extra, dict) else {})
    found.update({name: text for name, text in own.items() if isinstance(text, str)})
    return {name: text for name, text in found.items() if text is not None}


def _content(token: Any) -> str | None:
    """A token is its text, or an object with `content`."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _hf_templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Templates by name; the usual one is `default`. Files take the place of the config's."""
    file = folder / "chat_template.jinja"
    found = {"default": read_text(file)} if file.exists() else {}
    for other in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        found[other.stem] = read_text(other)
    if found:
        return found
    template = config.get("chat_template") or ""
    if isinstance(template, list):
        return {str(entry["name"]): str(entry["template"]) for entry in template}
    return {"default": str(template)}


def assets_from_gguf(metadata: Mapping[str, Any], where: str) -> TextAssets:
    """The same from a GGUF file's `tokenizer.*` keys."""
    with _expected(where):
        return _from_gguf(metadata, where)


def _from_gguf(metadata: Mapping[str, Any], where: str) -> TextAssets:
    tokenizer = _tokenizer(tokenizer_from_gguf(metadata, where), where)

    def get(name: str, default: Any = None) -> Any:
        return metadata.get(f"tokenizer.ggml.{name}", default)

    tokens, kinds = get("tokens"), get("token_type")
    special = {
        name: str(tokens[index])
        for key, name in _GGUF_SPECIAL.items()
        if (index := get(f"{key}_token_id")) is not None
    }
    adds_bos = bool(get("add_bos_token", get("pre") == "llama-bpe"))
    adds_eos = bool(get("add_eos_token", False))
    for adds, name in ((adds_bos, "bos"), (adds_eos, "eos")):
        if adds and f"{name}_token" not in special:
            raise UsageError(
                f"{where}: a prompt begins or ends with the {name} token, but "
                f"tokenizer.ggml.{name}_token_id is missing"
            )
    if adds_bos or adds_eos:
        tokenizer = tokenizer.adding(
            special["bos_token"] if adds_bos else "", special["eos_token"] if adds_eos else ""
        )
    stops = {
        operator.index(index)
        for kind in ("eos", "eot", "eom")
        if (index := get(f"{kind}_token_id")) is not None
    }
    for end in _ENDS:
        index = tokenizer.token_id(end)
        if index is not None and kinds[index] in (_CONTROL, _USER_DEFINED):
            stops.add(index)
    templates = {
        "default": str(metadata.get("tokenizer.chat_template", "")),
        "tool_use": str(metadata.get("tokenizer.chat_template.tool_use", "")),
    }
    return TextAssets(tokenizer, _chat(templates, special, stops))


@contextmanager
def _expected(where: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, OverflowError) as error:
        raise UsageError(f"{where}: its tokenizer or chat template: {str(error)[:200]}") from error


def _chat(templates: Mapping[str, str], special: Mapping[str, str], stops: set[int]) -> Chat:
    template, tool_template = (templates.get(name, "") for name in ("default", "tool_use"))
    # JSON may hold lone surrogates, which no file can.
    "".join((template, tool_template, *special.values())).encode()
    return Chat(template, dict(special), tuple(sorted(stops)), tool_template)


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}
