"""Tokens of text, and text of tokens as they stream."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Protocol

import tokenizers
from tokenizers.processors import TemplateProcessing

from foundryrt.errors import UsageError
from parse_runtime.text.byte_stream import ByteStream, TokenBytes

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


@contextmanager
def package_reads(failure: str) -> Iterator[None]:
    """UsageError that begins with `failure`, in a line, for whatever the package raises."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # A panic inside the package is no Exception.
        raise UsageError(f"{failure}: {' '.join(str(error).split())}") from error


class Stream(Protocol):
    """Text of a growing sequence of tokens, never cut inside a character."""

    def push(self, token: int) -> str:
        """The text that became complete; "" while a character is still in parts."""

    def rest(self) -> str:
        """The text of an end inside a character: replacement characters for its bytes."""

    def fork(self) -> Stream:
        """A stream that goes on from here by itself."""


class Tokenizer:
    """A thin face of `tokenizers.Tokenizer`.

    A server waits for it at its start: what needs the whole vocabulary, tenths of a second for
    150,000 tokens, is worked out once somebody asks for it.
    """

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        self._inner = inner
        self._count = inner.get_vocab_size(with_added_tokens=True)
        self._bytes = TokenBytes.of(inner)

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        return dict(self._inner.get_vocab(with_added_tokens=True))

    @cached_property
    def size(self) -> int:
        """Ids are below it; not all have to be in use."""
        return 1 + max(self._vocabulary.values(), default=-1)

    @cached_property
    def longest(self) -> int:
        """Characters of the longest token."""
        return max(map(len, self._vocabulary), default=0)

    @cached_property
    def _fingerprint(self) -> str:
        listed = json.dumps(sorted(self._vocabulary.items()))
        return hashlib.sha256(listed.encode()).hexdigest()

    def has(self, token: int) -> bool:
        """Whether a number is an id, of those below `size`."""
        return 0 <= token < self._count or self._count <= token < self.size

    def same_tokens(self, other: Tokenizer) -> bool:
        """Whether all tokens have the same ids in both."""
        return self is other or self._fingerprint == other._fingerprint

    @staticmethod
    def from_json(text: str) -> Tokenizer:
        """From the contents of a tokenizer.json; UsageError where they are damaged."""
        with package_reads("tokenizer.json cannot be read"):
            inner = tokenizers.Tokenizer.from_str(text)
            # They were for training; a prompt is all of its text.
            inner.no_truncation()
            inner.no_padding()
            return Tokenizer(inner)

    def to_json(self) -> str:
        """In the package's own format, which `from_json` reads."""
        return str(self._inner.to_str())

    def quick_json(self) -> str:
        """The same tokenizer in the form that `from_json` reads soonest.

        Merges as texts of two parts take half as long to read as those of two texts.
        """
        whole = self.to_json()
        found = json.loads(whole)
        model = found["model"]
        if isinstance(model.get("merges"), list):
            model["merges"] = [
                merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]
            ]
        quick = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
        try:
            same = str(tokenizers.Tokenizer.from_str(quick).to_str()) == whole
        except Exception:  # The package raises Exception itself.
            same = False  # a part may hold a space
        return quick if same else whole

    def adding(self, begin: str, end: str) -> Tokenizer:
        """One that puts these special tokens around a text; "" for none. UsageError if unknown."""
        special = [(token, self.token_id(token)) for token in {begin, end} if token]
        form = [f"{begin}:0"] * bool(begin) + ["$A:0"] + [f"{end}:0"] * bool(end)
        changed = Tokenizer.from_json(self.to_json())
        with package_reads(f"special tokens {begin!r} and {end!r} cannot be added to a prompt"):
            changed._inner.post_processor = TemplateProcessing(single=form, special_tokens=special)
        return changed

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Token ids; special tokens written out in the text are recognised.

        With `special`, those come too that the tokenizer puts around a text, such as BOS. A chat
        template writes its own.

        UsageError for lone surrogates, as of command-line arguments that are not UTF-8.
        """
        try:
            return list(self._inner.encode(text, add_special_tokens=special).ids)
        except TypeError as error:
            raise UsageError("a text is not valid Unicode") from error
        except Exception as error:  # The package raises Exception itself.
            raise UsageError(f"the tokenizer fails: {error}") from error

    def decode(self, tokens: Sequence[int]) -> str:
        """Text without special tokens."""
        return str(self._inner.decode(list(tokens), skip_special_tokens=True))

    @property
    def digits(self) -> list[bool]:
        """Of each id, whether its text is nothing but digits."""
        return [self.decode([token]).strip().isdecimal() for token in range(self.size)]

    def token_id(self, token: str) -> int | None:
        """The id of a token by its exact text."""
        index = self._inner.token_to_id(token)
        return None if index is None else int(index)

    def piece(self, token: int) -> str | None:
        """A token as the vocabulary writes it; None for an id that is not in use."""
        found = self._inner.id_to_token(token)
        return None if found is None else str(found)

    def stream(self) -> Stream:
        """Makes text of the tokens of an answer as they come."""
        return ByteStream(self._bytes) if self._bytes else TextStream(self)

    def single(self, text: str) -> int:
        """The id of a text that is one token; UsageError where it is several."""
        tokens = self.encode(text)
        if len(tokens) != 1:
            raise UsageError(
                f"{text!r} is {len(tokens)} tokens; the judge's words must be one each: "
                "capture with others, --yes and --no"
            )
        return tokens[0]

    def verdicts(self, yes: str, no: str) -> tuple[int, int]:
        """Ids of the judge's words; UsageError where one is several tokens, or both are one."""
        words = self.single(yes), self.single(no)
        if words[0] == words[1]:
            raise UsageError(f"yes {yes!r} and no {no!r} are the same token")
        return words


class TextStream:
    """A `Stream` for any decoder, which is asked again for the tokens before the last."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._read = 0
        self._start = 0
        self._before = ""
        """Text of the tokens from `_start` to `_read`."""

    def push(self, token: int) -> str:
        """The text that became complete; "" while a character is still in parts.

        Text is decoded from the last text returned on, since decoders may treat the first token
        of a text specially (a leading space).
        """
        self._tokens.append(token)
        after = self._tokenizer.decode(self._tokens[self._start :])
        if not after.startswith(self._before):
            # A byte that was text by itself is none in a run of bytes that is no UTF-8.
            self._start, self._before = self._read, ""
            after = self._tokenizer.decode(self._tokens[self._start :])
        if after.endswith(INCOMPLETE):
            return ""
        new = after[len(self._before) :]
        self._before = after
        # Skipped special tokens have no text that could come before the next.
        if own := self._tokenizer.decode(self._tokens[self._read :]):
            self._start, self._before = self._read, own
        self._read = len(self._tokens)
        return new

    def rest(self) -> str:
        """The text of an end inside a character: replacement characters for its bytes."""
        return self._tokenizer.decode(self._tokens[self._start :])[len(self._before) :]

    def fork(self) -> TextStream:
        """A stream that goes on from here by itself."""
        other = TextStream(self._tokenizer)
        other._tokens = self._tokens[self._start :]
        other._read = self._read - self._start
        other._before = self._before
        return other
