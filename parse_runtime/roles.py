"""What the engine asks of its models, how it decides, and what it counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from parse_runtime.judge import Selection, first_failure
from parse_runtime.sampling import Prediction


@dataclass(frozen=True)
class Sampling:
    """How one sequence picks tokens; temperature 0 is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Verdict:
    """What a verification found: the kept cut (0 for none) and each cut's P(yes)."""

    kept: int
    verdicts: list[float]


class Decoder(Protocol):
    """A model with the cache of one sequence; lengths are counted in tokens."""

    max_len: int
    tokenizer: str
    """Fingerprint of the tokenizer: models of a pair must have the same."""

    def prefill(self, tokens: Sequence[int], start: int) -> Prediction:
        """Continue the first `start` tokens of the sequence; predicts what follows."""

    def decode(self, token: int, position: int) -> Prediction:
        """Put one token at `position`; predicts what follows."""


class Target(Decoder, Protocol):
    """A decoder that also judges."""

    def verify(
        self, trunk: Sequence[int], start: int, suffix: Sequence[int], cuts: Sequence[int]
    ) -> list[float]:
        """Continue the first `start` tokens with `trunk`; a verdict on each sequence length."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How the engine decides; every value is a setting (docs/parse.md)."""

    cuts: Callable[[Sequence[int]], list[int]]
    """Prefix lengths of a draft that are judged, rising; the last is the draft's own length."""
    suffix: Sequence[int]
    stops: frozenset[int]
    threshold: float = 0.5
    select: Selection = first_failure
    two_stage: bool = False
    max_rounds: int = 1
    resume_tokens: int = 16
    """Tokens of the target between two rounds."""


@dataclass
class Statistics:
    """Counts of one generation; times in seconds."""

    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    tokens: int = 0
    verdicts: list[list[tuple[int, float]]] = field(default_factory=list)
    """Of each round: (prefix length, verdict)."""
    prefill_seconds: float = 0.0
    draft_seconds: float = 0.0
    verify_seconds: float = 0.0
    resume_seconds: float = 0.0
    seconds: float = 0.0

    def report(self) -> dict[str, Any]:
        """JSON-able, with tokens a second."""
        rate = self.tokens / self.seconds if self.seconds else 0.0
        return {**asdict(self), "tokens_per_second": rate}
