"""How one answer is drafted, judged and resumed: settings of a capture, a run or a request."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import msgspec

from foundryrt.errors import UsageError
from foundryrt.options import option
from parse_runtime.engine.judge import CUTS, PROMPT
from parse_runtime.signature.selection import SelectionRule


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Every value is a setting with a documented default (docs/parse.md)."""

    threshold: float = option(0.5, "least verdict that accepts")
    selection: str = option(SelectionRule.FIRST_FAILURE.label, "first-failure or longest-accepted")
    two_stage: bool = option(False, "judge the whole draft first, its prefixes if it is rejected")
    cut_at: str = option("stride", "stride, or sentence: ends of sentences and lines")
    stride: int = option(16, "least tokens between cuts")
    max_rounds: int = option(1, "drafts an answer; 0: the target alone")
    resume_tokens: int = option(16, "target tokens between rounds")
    judge_prompt: str = option(PROMPT, "the question to the judge")
    calibrated: bool = option(True, "verdicts by the bundle's calibration, where it has one")

    def __post_init__(self) -> None:
        SelectionRule.named(self.selection)
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"threshold {self.threshold}: a probability is needed")
        if self.cut_at not in CUTS:
            raise UsageError(f"cut-at {self.cut_at!r}: one of {', '.join(CUTS)}")
        for name, least in (("stride", 1), ("max_rounds", 0), ("resume_tokens", 1)):
            if getattr(self, name) < least:
                shown = name.replace("_", "-")
                raise UsageError(f"{shown} {getattr(self, name)}: at least {least} is needed")

    @property
    def selection_rule(self) -> SelectionRule:
        return SelectionRule.named(self.selection)

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


@dataclass(frozen=True)
class BundleRules:
    """What answers of one bundle go by, unless a request says otherwise."""

    captured: Rules
    """Without its calibration."""
    fitted: Rules
    """With it; the same where there is none."""

    def changed(self, values: Mapping[str, Any]) -> Rules:
        """As `Rules.changed`; `calibrated: false` leaves all aside that the calibration changed."""
        base = self.captured if values.get("calibrated") is False else self.fitted
        return base.changed(values)


class _Changes:
    """Other values for some of the rules, as fields that are None where nothing changes."""

    def changes(self) -> dict[str, Any]:
        """By name, what differs."""
        found = {field.name: getattr(self, field.name) for field in fields(Rules)}
        return {name: value for name, value in found.items() if value is not None}


if TYPE_CHECKING:
    RuleChanges = _Changes
else:
    RuleChanges = dataclasses.make_dataclass(
        "RuleChanges",
        [
            (field.name, typing.get_type_hints(Rules)[field.name] | None,
             option(None, field.metadata["help"]))
            for field in fields(Rules)
        ],
        bases=(_Changes,), frozen=True, kw_only=True,
    )  # fmt: skip
