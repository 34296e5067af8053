"""The sequences that one pass serves, and the prompts that one takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from foundryrt.errors import UsageError

_GREEDY = 1e-6
"""Temperatures below are 0."""


@dataclass(frozen=True)
class Sampling:
    """How one sequence picks tokens: temperature 0 is greedy, `top_p` keeps the nucleus.

    A temperature below 1e-6 is taken as 0: float32 logits over less would not be finite.
    Noise is keyed by (seed, position, token id): a sequence's tokens do not depend on what else
    is in its batches.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"temperature {self.temperature}: a finite number >= 0 is needed")
        if self.temperature < _GREEDY:
            object.__setattr__(self, "temperature", 0.0)
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top-p {self.top_p}: a number above 0 and up to 1 is needed")
        if not 0 <= self.seed < 1 << 63:
            raise UsageError(f"seed {self.seed}: a number from 0 to 2^63 - 1 is needed")


@dataclass(frozen=True)
class Chunk:
    """Tokens that a slot's sequence goes on with from position `start` on: a prompt, or a part."""

    slot: int
    tokens: Sequence[int]
    start: int
    sampling: Sampling
    scored: bool = False
    """The logits after the last token are wanted, in place of a token."""
    following: int | None = None
    """The prompt's next token, where it does not end here: then nothing is wanted."""

    def part(self, begin: int, end: int) -> Chunk:
        """Its tokens from number `begin` up to `end`."""
        following = self.tokens[end] if end < len(self.tokens) else self.following
        tokens, start = self.tokens[begin:end], self.start + begin
        return replace(self, tokens=tokens, start=start, following=following)


@dataclass(frozen=True)
class Batch:
    """Of each sequence its slot, its last token, that token's position, and its sampling."""

    slots: Sequence[int]
    tokens: Sequence[int]
    positions: Sequence[int]
    samplings: Sequence[Sampling]
    scored: frozenset[int] = frozenset()
    """Slots of the sequences whose logits are wanted, in place of tokens."""
    ahead: bool = False
    """The next batch is likely to have the same sequences, or fewer: it may be begun already."""

    def __len__(self) -> int:
        return len(self.slots)

    def __getitem__(self, part: slice) -> Batch:
        return self.only(range(*part.indices(len(self))))

    def only(self, places: Sequence[int]) -> Batch:
        """The sequences at these places."""
        return Batch(
            [self.slots[i] for i in places],
            [self.tokens[i] for i in places],
            [self.positions[i] for i in places],
            [self.samplings[i] for i in places],
            self.scored,
            self.ahead,
        )

    def followed_by(self, tokens: Sequence[int | None]) -> Batch:
        """The same sequences, with the token that came after each; None: it is where it was."""
        found = list(zip(tokens, self.tokens, self.positions, strict=True))
        return replace(
            self,
            tokens=[before if token is None else token for token, before, _ in found],
            positions=[place + (token is not None) for token, _, place in found],
        )
