"""Text of tokens that stand for bytes, one token after another and without decoding any twice."""

from __future__ import annotations

import codecs

import tokenizers
from tokenizers import decoders


def byte_alphabet() -> dict[str, int]:
    """Characters that byte-level tokenizers write for bytes: those in print stand for themselves.

    The others take the characters from U+0100 on, in turn, as in GPT-2's encoder.
    """
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    table = {chr(byte): byte for byte in printed}
    table.update({chr(0x100 + i): byte for i, byte in enumerate(others)})
    return table


_ALPHABET = byte_alphabet()
_decoder = codecs.getincrementaldecoder("utf-8")


class TokenBytes:
    """The bytes of each token of a byte-level tokenizer; special tokens have none."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        self._inner = inner
        added = inner.get_added_tokens_decoder().values()
        self._special = {token.content for token in added if token.special}
        self._texts: dict[int, str | None] = {}

    @staticmethod
    def of(inner: tokenizers.Tokenizer) -> TokenBytes | None:
        """None where a token's text depends on those around it."""
        return TokenBytes(inner) if isinstance(inner.decoder, decoders.ByteLevel) else None

    def text(self, token: int) -> str | None:
        """The text of a token that is whole characters; None for others."""
        try:
            return self._texts[token]
        except KeyError:
            try:
                text = self[token].decode()
            except UnicodeDecodeError:
                text = None
            self._texts[token] = text
            return text

    def __getitem__(self, token: int) -> bytes:
        piece = self._inner.id_to_token(token)
        if piece is None or piece in self._special:
            return b""
        try:
            return bytes([_ALPHABET[character] for character in piece])
        except KeyError:
            return piece.encode()


class ByteStream:
    """As `TextStream`, of a byte-level tokenizer: its text is that of all bytes together."""

    def __init__(self, tokens: TokenBytes) -> None:
        self._tokens = tokens
        self._decoder = _decoder("replace")
        self._inside = False
        """A character has begun and is not complete."""

    def push(self, token: int) -> str:
        """The text that became complete."""
        if not self._inside and (text := self._tokens.text(token)) is not None:
            return text
        new = self._decoder.decode(self._tokens[token])
        self._inside = bool(self._decoder.getstate()[0])
        return new

    def rest(self) -> str:
        """The text of an end inside a character: a replacement character."""
        return self._decoder.decode(b"", final=True)

    def fork(self) -> ByteStream:
        """A stream that goes on from here by itself."""
        other = ByteStream(self._tokens)
        other._decoder.setstate(self._decoder.getstate())
        other._inside = self._inside
        return other
