"""The bytes that a single token stands for, which need not be a whole character."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from parse_runtime.text.byte_stream import byte_alphabet
from parse_runtime.text.tokenizer import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Spelling:
    """Of one tokenizer, byte-level or with byte fallback."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        found = json.loads(tokenizer.to_json())
        self._added = {token["id"]: token["content"] for token in found["added_tokens"]}
        steps = _steps(found["decoder"])
        self._bytes = (
            byte_alphabet() if any(step["type"] == "ByteLevel" for step in steps) else None
        )
        self._replaced = [
            (step["pattern"]["String"], step["content"])
            for step in steps
            if step["type"] == "Replace" and "String" in step["pattern"]
        ]
        self._replaced += [
            (step["replacement"], " ") for step in steps if step["type"] == "Metaspace"
        ]
        self._tokenizer = tokenizer

    def data(self, token: int) -> bytes:
        """Empty for an id that stands for nothing."""
        if token in self._added:
            return str(self._added[token]).encode()
        piece = self._tokenizer.piece(token)
        if piece is None:
            return b""
        if self._bytes is not None and self._bytes.keys() >= set(piece):
            return bytes(self._bytes[character] for character in piece)
        if byte := _BYTE.fullmatch(piece):
            return bytes([int(byte[1], 16)])
        for old, new in self._replaced:
            piece = piece.replace(old, new)
        return piece.encode()

    def text(self, token: int) -> str:
        """Its text; `bytes:\\xe2\\x80` for a part of a character, so that each has its own."""
        data = self.data(token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _steps(decoder: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [step for part in decoder["decoders"] for step in _steps(part)]
    return [decoder]
