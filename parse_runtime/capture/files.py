"""Files that a capture's settings name: a cache key counts their contents, not their folders."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from foundryc.weights.folders import weight_files
from parse_runtime.weights.source import locate

_TEXT = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "chat_template.jinja",
    "additional_chat_templates/tool_use.jinja",
)  # fmt: skip


class Files(Protocol):
    """The settings that name files."""

    model: str
    draft: str
    eagle: str
    chat_template: str


def inputs(settings: Files) -> dict[str, list[Path]]:
    """By setting, the files that determine the bundle; UsageError where a model is missing."""
    found = {"model": _model(settings.model)}
    if settings.draft:
        found["draft"] = _model(settings.draft)
    if settings.eagle:
        found["eagle"] = _model(settings.eagle)
    if settings.chat_template:
        found["chat_template"] = [Path(settings.chat_template)]
    return found


def _model(name: str) -> list[Path]:
    path = locate(name)
    if not path.is_dir():
        return [path]
    return [path / file for file in _TEXT if (path / file).exists()] + weight_files(path)
