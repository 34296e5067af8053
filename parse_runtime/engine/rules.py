"""How one answer is drafted, judged and resumed: settings of a capture, a run or a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import msgspec

from foundryrt.errors import UsageError
from parse_runtime.engine.judge import CUTS, PROMPT, selection


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Every value is a setting with a documented default (docs/parse.md)."""

    threshold: float = 0.5
    """The least verdict that accepts."""
    selection: str = "first-failure"
    two_stage: bool = False
    """Judge the whole draft first, its prefixes only where it is rejected."""
    cut_at: str = "stride"
    stride: int = 16
    """The least tokens between two cuts."""
    max_rounds: int = 1
    """Drafts of an answer; 0 leaves it to the target."""
    resume_tokens: int = 16
    """Tokens of the target between two rounds."""
    judge_prompt: str = PROMPT

    def __post_init__(self) -> None:
        selection(self.selection)
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"threshold {self.threshold}: a probability is needed")
        if self.cut_at not in CUTS:
            raise UsageError(f"cut-at {self.cut_at!r}: one of {', '.join(CUTS)}")
        for name, least in (("stride", 1), ("max_rounds", 0), ("resume_tokens", 1)):
            if getattr(self, name) < least:
                shown = name.replace("_", "-")
                raise UsageError(f"{shown} {getattr(self, name)}: at least {least} is needed")
        if not self.judge_prompt:
            raise UsageError("judge-prompt: the judge needs a question")

    @staticmethod
    def of(settings: Mapping[str, Any]) -> Rules:
        """From a capture's settings, which hold more than these."""
        names = {field.name for field in fields(Rules)}
        return Rules().changed({name: settings[name] for name in names & set(settings)})

    def changed(self, values: Mapping[str, Any]) -> Rules:
        """With other values for some; UsageError for an unknown name or an unfit value."""
        known = asdict(self)
        if unknown := sorted(set(values) - set(known)):
            raise UsageError(f"no parse setting {unknown[0]!r}; there are {', '.join(known)}")
        try:
            return msgspec.convert({**known, **values}, Rules)
        except msgspec.ValidationError as error:
            raise UsageError(f"parse settings: {error}") from None
