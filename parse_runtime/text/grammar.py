"""Answers of a given form: which tokens may follow, by llguidance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foundryrt.errors import UsageError, install
from parse_runtime.text.tokenizer import Tokenizer, package_reads

if TYPE_CHECKING:
    import llguidance

_SPACE = r"[\x20\x0A\x0D\x09]{1,40}"
"""Between JSON's parts. A model that likes white space must come to an end of it."""


class Matcher:
    """The state of one answer in its grammar."""

    def __init__(self, inner: llguidance.LLMatcher) -> None:
        self._inner = inner

    @property
    def ended(self) -> bool:
        """Nothing but a stop token may follow."""
        return bool(self._inner.is_stopped())

    def allowed(self, vocabulary: int) -> NDArray[np.bool_]:
        """[vocabulary]: which tokens may follow; stop tokens where the answer may end."""
        mask = np.frombuffer(self._inner.compute_bitmask(), np.uint8)
        self._check()
        found = np.zeros(vocabulary, np.bool_)
        bits = np.unpackbits(mask, bitorder="little")[:vocabulary]
        found[: len(bits)] = bits
        return found

    def advance(self, token: int) -> None:
        """`token` is part of the answer."""
        self._inner.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._inner.is_error():
            # Some schemas turn out here only: such as one that refers to itself alone.
            raise UsageError(f"the answer's grammar fails: {_line(self._inner.get_error())}")


@dataclass(frozen=True, eq=False)
class Grammar:
    """A form that answers are to have."""

    _first: llguidance.LLMatcher = field(repr=False)

    def start(self) -> Matcher:
        """At the beginning of an answer."""
        return Matcher(self._first.deep_copy())


@dataclass(frozen=True)
class Grammars:
    """Makes the grammars of one tokenizer, whose `stops` end an answer."""

    tokenizer: Tokenizer
    stops: Sequence[int]

    def json(self, schema: Mapping[str, Any]) -> Grammar:
        """JSON that follows a JSON schema; {"type": "object"} is any object.

        UsageError where llguidance is missing or cannot follow the schema.
        """
        tokens = self._tokens
        import llguidance

        with package_reads("the JSON schema cannot be followed"):
            grammar = llguidance.LLMatcher.grammar_from_json_schema(
                dict(schema), overrides={"whitespace_pattern": _SPACE}
            )
        matcher = llguidance.LLMatcher(tokens, grammar, log_level=0)
        if matcher.is_error():
            raise UsageError(f"the JSON schema cannot be followed: {_line(matcher.get_error())}")
        return Grammar(matcher)

    @cached_property
    def _tokens(self) -> llguidance.LLTokenizer:
        """Some 0.2 s for 50,000 tokens, once."""
        try:
            import llguidance
        except ImportError as error:
            raise UsageError(
                f"answers in JSON need {error.name}, which is not installed: {install('grammar')}"
            ) from error
        with package_reads("the tokenizer cannot be used for grammars"):
            return llguidance.LLTokenizer(
                self.tokenizer.to_json(), eos_token=list(self.stops) or None
            )


def _line(text: str) -> str:
    """Without the parser's state, which the package adds."""
    return " ".join(text.partition("<state>")[0].split())
