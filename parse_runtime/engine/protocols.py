"""What the engine asks of its models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from foundryrt.errors import UsageError


@dataclass(frozen=True)
class Sampling:
    """How one sequence picks tokens: temperature 0 is greedy, `top_p` keeps the nucleus.

    Noise is keyed by (seed, position, token id): a sequence's tokens do not depend on what else
    is in its batches.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"temperature {self.temperature}: a finite number >= 0 is needed")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top-p {self.top_p}: a number above 0 and up to 1 is needed")
        if not 0 <= self.seed < 1 << 63:
            raise UsageError(f"seed {self.seed}: a number from 0 to 2^63 - 1 is needed")


@dataclass(frozen=True)
class Verification:
    """Put `trunk` at `start` and after, then judge the sequence cut to each length of `cuts`."""

    trunk: Sequence[int]
    start: int
    cuts: Sequence[int]
    suffix: Sequence[int]
    """The judge's question."""
    threshold: float = 0.5
    rule: str = "first-failure"
    """A name of `parse_runtime.engine.judge.SELECTIONS`."""


@dataclass(frozen=True)
class Verdict:
    """What a verification found: the kept cut (0 for none) and each cut's P(yes)."""

    kept: int
    verdicts: list[float]


class Decoder(Protocol):
    """A model whose cache holds `slots` sequences of up to `max_len` tokens.

    Every pass says at which positions it writes; whatever a slot holds from there on is void.
    A pass that is repeated gives the same again.
    """

    max_len: int
    slots: int

    def prefill(self, slot: int, tokens: Sequence[int], start: int, sampling: Sampling) -> int:
        """Put tokens at `start` and after, behind what the slot holds; the token that follows."""

    def decode(
        self,
        slots: Sequence[int],
        tokens: Sequence[int],
        positions: Sequence[int],
        samplings: Sequence[Sampling],
    ) -> list[int]:
        """Put one token in each of several slots; the token that follows each."""


class Target(Decoder, Protocol):
    """A decoder that also judges, and may have several tokens of its own in one pass."""

    def advance(
        self,
        slots: Sequence[int],
        tokens: Sequence[int],
        positions: Sequence[int],
        samplings: Sequence[Sampling],
    ) -> list[list[int]]:
        """As `decode`, but one or more tokens that follow each, as plain decoding would give."""

    def verify(self, slot: int, wanted: Verification) -> Verdict:
        """Judge prefixes of a slot's sequence; it holds all of the trunk then."""
