"""What is done to the logits of an answer before a token is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from foundryrt.errors import UsageError
from parse_runtime.text.grammar import Grammar


@dataclass(frozen=True, kw_only=True)
class Processing:
    """By the names of requests' fields; the defaults change nothing.

    Where nothing differs from them, the graphs choose the tokens.
    """

    top_k: int = 0
    """The likeliest tokens that are drawn from; 0 and -1 for all."""
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    min_tokens: int = 0
    """No stop token comes before so many others."""
    logprobs: int | None = None
    """How many of the likeliest tokens are listed beside each; None to list nothing."""
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        for name, fits, needed in (
            ("top_k", self.top_k >= -1, "-1 or more"),
            ("min_p", 0 <= self.min_p <= 1, "a number from 0 to 1"),
            ("repetition_penalty", 0 < self.repetition_penalty < float("inf"), "more than 0"),
            ("min_tokens", self.min_tokens >= 0, "0 or more"),
        ):
            if not fits:
                raise UsageError(f"{name} {getattr(self, name)}: {needed} is needed")

    @property
    def needed(self) -> bool:
        """The graphs cannot do it."""
        return replace(self, top_k=max(0, self.top_k)) != Processing()
