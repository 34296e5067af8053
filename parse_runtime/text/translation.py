"""Token translation between draft model and target: of one tokenizer, or of two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from parse_runtime.text.tokenizer import INCOMPLETE, Tokenizer


class TokenTranslation(Protocol):
    """Carries answers between the two models."""

    @property
    def same(self) -> bool:
        """Both models read and write the same ids."""

    @property
    def draft_stops(self) -> frozenset[int]:
        """Tokens of the draft model that end an answer."""

    def to_draft(self, answer: Sequence[int]) -> list[int]:
        """An answer of target tokens, in the draft model's."""

    def to_target(self, answer: Sequence[int], draft: Sequence[int]) -> list[int]:
        """What the draft model wrote after `answer` (target tokens), in the target's tokens."""


@dataclass(frozen=True)
class SameTokens:
    """One tokenizer for both."""

    draft_stops: frozenset[int]
    same: bool = True

    def to_draft(self, answer: Sequence[int]) -> list[int]:
        return list(answer)

    def to_target(self, answer: Sequence[int], draft: Sequence[int]) -> list[int]:
        return list(draft)


@dataclass(frozen=True)
class Retokenization:
    """Two tokenizers: text goes between them, so cuts fall where the target's tokens end."""

    target: Tokenizer
    draft: Tokenizer
    draft_stops: frozenset[int]
    same: bool = False

    def to_draft(self, answer: Sequence[int]) -> list[int]:
        return self.draft.encode(_whole(self.target.decode(answer)))

    def to_target(self, answer: Sequence[int], draft: Sequence[int]) -> list[int]:
        before = self.to_draft(answer)
        text = self.draft.decode([*before, *draft])
        written = _whole(text.removeprefix(self.draft.decode(before)))
        # Tokenizers may treat the first word of a text specially; the answer's end comes before.
        tail = list(answer[-4:])
        joined = self.target.encode(self.target.decode(tail) + written)
        if joined[: len(tail)] == tail:
            return joined[len(tail) :]
        return self.target.encode(written)


def _whole(text: str) -> str:
    """Without the parts of a character that its last tokens leave incomplete."""
    return text.rstrip(INCOMPLETE)
