"""One answer to give: its request, its listener, and its counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from foundryrt.errors import UsageError
from parse_runtime.engine.batch import Sampling
from parse_runtime.engine.rules import Rules
from parse_runtime.sampling.processing import Processing
from parse_runtime.sampling.sampler import Sampler, TokenLogprobs
from parse_runtime.signature.evidence import Evidence, Score
from parse_runtime.text.translation import TokenTranslation


class TooLong(UsageError):
    """Prompt and answer exceed the caches."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt in tokens, and how to answer it."""

    prompt: Sequence[int]
    draft_prompt: Sequence[int]
    """The prompt in the draft model's own tokens."""
    suffix: Sequence[int]
    """The judge's question, as it follows an answer."""
    stops: frozenset[int]
    """Tokens of the target that end an answer."""
    translation: TokenTranslation
    cuts: Callable[[Sequence[int]], list[int]]
    """Prefix lengths of a draft that are judged, rising; the last is the draft's own length."""
    max_new_tokens: int
    rules: Rules
    sampling: Sampling
    score: Score | None = None
    """What verdicts are made of (`signature/evidence.py`); None: the judge's answer alone."""
    ends: bool = True
    """False: the models' own stop tokens are tokens like others."""
    processing: Processing = field(default_factory=Processing)
    """Where it is needed, the target alone answers, and tokens are chosen on the host."""

    def sampler(self) -> Sampler:
        """At the beginning of the answer."""
        how = self.sampling
        return Sampler(
            self.processing, how.temperature, how.top_p, how.seed, self.prompt, self.stops
        )

    def check(self, max_len: int) -> None:
        """UsageError where nothing is asked, TooLong where it does not fit `max_len` tokens."""
        if not self.prompt:
            raise UsageError("the prompt has no tokens")
        if self.max_new_tokens < 1:
            raise UsageError(f"max-new-tokens {self.max_new_tokens}: at least 1 is needed")
        if len(self.prompt) + self.max_new_tokens > max_len:
            raise TooLong(
                f"a prompt of {len(self.prompt)} tokens and {self.max_new_tokens} new ones exceed "
                f"the {max_len} of the bundle: shorten one, or capture with a larger --max-len"
            )


class Listener(Protocol):
    """Hears of one answer, in the engine's thread. What it raises ends its own request."""

    def tokens(self, tokens: Sequence[int], logprobs: Sequence[TokenLogprobs] = ()) -> int | None:
        """Final tokens, never the stop token; a number: the answer ends after so many of them.

        `logprobs` has an entry of each where the request asks for them.
        """

    def draft_end(self) -> Callable[[int], bool]:
        """A function to call with each token of a draft: true where the answer would end."""

    def finished(self, reason: str, statistics: Statistics) -> None:
        """`stop`, `length` (the token limit) or `cancelled`."""

    def failed(self, error: Exception) -> None:
        """The request ended with an error."""


@dataclass
class Statistics:
    """Counts of one answer; times in seconds, waiting for others included."""

    rounds: int = 0
    drafted: int = 0
    """Tokens of all drafts, in the target's tokens."""
    accepted: int = 0
    tokens: int = 0
    shared: int = 0
    """Tokens of prompts, for target and draft model, that an earlier prompt had computed."""
    preempted: int = 0
    """How often it gave its memory to older answers, and went on later."""
    advances: int = 0
    """Extend passes, or decode passes in their place."""
    advanced: int = 0
    """Tokens that these gave."""
    verdicts: list[list[tuple[int, float]]] = field(default_factory=list)
    """Of each round: (prefix length, verdict)."""
    evidence: list[Evidence] = field(default_factory=list)
    """Of each verification that had a score, what it knew of its cuts."""
    queue_seconds: float = 0.0
    first_token_seconds: float = 0.0
    """From the submission."""
    prefill_seconds: float = 0.0
    draft_seconds: float = 0.0
    verify_seconds: float = 0.0
    resume_seconds: float = 0.0
    seconds: float = 0.0
    """From the submission to the end."""

    def report(self) -> dict[str, Any]:
        """JSON-able, with the ratios of the counts, without the evidence."""
        counts = {name: value for name, value in vars(self).items() if name != "evidence"}
        return {
            **counts,
            "acceptance_length": _ratio(self.accepted, self.rounds),
            "tokens_per_advance": _ratio(self.advanced, self.advances),
            "tokens_per_second": _ratio(self.tokens, self.seconds),
        }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
