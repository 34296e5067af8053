"""Tokenizer and chat files of a model, as the bundle carries them."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundryrt.errors import UsageError
from parse_runtime.models.hf_config import read_json
from parse_runtime.text.chat import Chat
from parse_runtime.text.gguf_tokenizer import tokenizer_from_gguf
from parse_runtime.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextAssets:
    """`tokenizer_json`: the `tokenizers` package's own format."""

    tokenizer_json: str
    tokenizer: Tokenizer
    chat: Chat


def assets_from_hf(folder: Path) -> TextAssets:
    """tokenizer.json, tokenizer_config.json, chat_template.jinja and the configs' stop tokens.

    UsageError where one is missing or has another form.
    """
    with _expected(str(folder)):
        return _from_hf(folder)


def _from_hf(folder: Path) -> TextAssets:
    path = folder / "tokenizer.json"
    if not path.exists():
        raise UsageError(f"{path} is missing; only models with a fast tokenizer are supported")
    tokenizer_json = path.read_text(encoding="utf-8")
    tokenizer = Tokenizer.from_json(tokenizer_json)
    config = _optional(folder / "tokenizer_config.json")
    template = _hf_template(folder, config)
    bos, eos = _token_text(config.get("bos_token")), _token_text(config.get("eos_token"))
    stops: set[int] = set()
    for source in (_optional(folder / "generation_config.json"), _optional(folder / "config.json")):
        ids = source.get("eos_token_id")
        listed = ids if isinstance(ids, list) else [] if ids is None else [ids]
        stops |= {operator.index(token) for token in listed}
    if eos and (end := tokenizer.token_id(eos)) is not None:
        stops.add(end)
    return TextAssets(tokenizer_json, tokenizer, _chat(template, bos, eos, stops))


def assets_from_gguf(metadata: Mapping[str, Any], where: str) -> TextAssets:
    """The same from a GGUF file's `tokenizer.*` keys."""
    with _expected(where):
        return _from_gguf(metadata, where)


def _from_gguf(metadata: Mapping[str, Any], where: str) -> TextAssets:
    tokenizer_json = tokenizer_from_gguf(metadata, where)
    tokens = metadata["tokenizer.ggml.tokens"]

    def text(key: str) -> str:
        index = metadata.get(f"tokenizer.ggml.{key}_token_id")
        return "" if index is None else str(tokens[index])

    stops = {
        operator.index(metadata[key])
        for key in (f"tokenizer.ggml.{kind}_token_id" for kind in ("eos", "eot", "eom"))
        if key in metadata
    }
    template = str(metadata.get("tokenizer.chat_template", ""))
    chat = _chat(template, text("bos"), text("eos"), stops)
    return TextAssets(tokenizer_json, Tokenizer.from_json(tokenizer_json), chat)


@contextmanager
def _expected(where: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, OverflowError) as error:
        raise UsageError(f"{where}: its tokenizer or chat template: {str(error)[:200]}") from error


def _chat(template: str, bos: str, eos: str, stops: set[int]) -> Chat:
    # JSON may hold lone surrogates, which no file can.
    (template + bos + eos).encode()
    return Chat(template, bos, eos, tuple(sorted(stops)))


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _hf_template(folder: Path, config: Mapping[str, Any]) -> str:
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template") or ""
    if isinstance(template, list):
        named = {str(entry["name"]): str(entry["template"]) for entry in template}
        template = named.get("default", "")
    return str(template)


def _token_text(token: Any) -> str:
    """tokenizer_config.json has a token as text or as an object with `content`."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""
