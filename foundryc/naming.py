"""What a bundle's file is called where nobody says."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import Any

_LONGEST = 24
"""Letters of a setting's value that are spelled out."""
_LONGEST_NAME = 100


def file_name(workload: str, settings: Any, *marks: str) -> str:
    """Such as `smollm2-max_len256.fdy`, of settings that are a dataclass.

    It begins with what the required settings name, such as a model's folder, or with the workload;
    every setting that is not at its default follows, then `marks`. Equal settings give equal names,
    and a name needs no quoting in a shell.
    """
    heads, parts = [], []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.default is dataclasses.MISSING:
            heads.append(_word(value))
        elif value != field.default:
            word = {True: "", False: "_no"}[value] if isinstance(value, bool) else _word(value)
            parts.append(field.name + word)
    head = "-".join(filter(None, heads)) or _word(workload)
    name = "-".join([head, *parts, *marks])
    if len(name) > _LONGEST_NAME:
        name = f"{head[:_LONGEST]}-{_digest(name)}"
    return f"{name}.fdy"


def _last(value: str) -> str:
    """`model` of `/models/model.gguf`; any other text as it is."""
    if value in (".", ".."):
        return Path(value).resolve().name
    last = value.rstrip("/").rpartition("/")[2]
    stem, _, suffix = last.rpartition(".")
    return stem if suffix in ("gguf", "safetensors", "jinja") else last


def _word(value: object) -> str:
    text = _last(str(value).removesuffix(".0") if isinstance(value, float) else str(value))
    word = re.sub(r"[^A-Za-z0-9._+,]+", "-", text).strip("-.,+")
    # What cannot be told from another value's word is told by its digest.
    if word == text and len(word) <= _LONGEST:
        return word
    return "-".join(filter(None, (word[:12].strip("-.,+"), _digest(text))))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
