"""The models and the text files of an open parse bundle."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

from foundryrt.errors import FoundryError, UsageError
from parse_runtime.backend import GraphModel
from parse_runtime.judge import selection
from parse_runtime.pair import Alike, Pair, Unlike
from parse_runtime.prompts import Prompts, Voice
from parse_runtime.roles import Decoder, Sampling, Target, Verdict
from parse_runtime.rules import Rules
from parse_runtime.sampling import Sampler
from parse_runtime.text.chat import Chat
from parse_runtime.text.tokenizer import Tokenizer

UNLIKE = ("retokenize", "refuse")


@dataclass(frozen=True)
class Loaded:
    """A bundle, ready to answer."""

    target: Target
    draft: Decoder
    prompts: Prompts
    rules: Rules
    """As the bundle was captured."""


def load(session: Any, unlike_tokenizers: str = "retokenize") -> Loaded:
    """UsageError where the models' tokenizers differ and that is to be refused."""
    if unlike_tokenizers not in UNLIKE:
        raise UsageError(f"unlike-tokenizers {unlike_tokenizers!r}: one of {', '.join(UNLIKE)}")
    target = _voice(session, "")
    # A bundle of one tokenizer has it once.
    draft = _voice(session, "draft.") if "draft.tokenizer.json" in session.files else target
    return Loaded(
        OneSlot(session, "target", target.tokenizer.fingerprint),
        OneSlot(session, "draft", draft.tokenizer.fingerprint),
        Prompts(target, draft, pair(target, draft, unlike_tokenizers)),
        Rules.of(session.settings),
    )


def pair(target: Voice, draft: Voice, unlike_tokenizers: str) -> Pair:
    """How tokens go between two models; a warning on stderr where they have to be made anew."""
    stops = frozenset(draft.chat.stops)
    if target.tokenizer.fingerprint == draft.tokenizer.fingerprint:
        return Alike(stops)
    if unlike_tokenizers == "refuse":
        raise UsageError(
            "the draft model's tokenizer is not the target's: take a draft model of the same "
            "family, or --unlike-tokenizers retokenize"
        )
    print(
        "warning: the draft model's tokenizer is not the target's: drafts are re-tokenized",
        file=sys.stderr,
    )
    return Unlike(target.tokenizer, draft.tokenizer, stops)


class OneSlot:
    """The graphs of one sequence as a `roles.Target`, until the backend has slots."""

    slots = 1

    def __init__(self, session: Any, name: str, tokenizer: str) -> None:
        self.max_len, self.tokenizer = session.settings["max_len"], tokenizer
        self._model = GraphModel(session, name, self.max_len, tokenizer)

    def prefill(self, slot: int, tokens: Any, start: int, sampling: Any) -> int:
        return self._pick(self._model.prefill(tokens, start), start + len(tokens), sampling)

    def decode(self, slots: Any, tokens: Any, positions: Any, samplings: Any) -> list[int]:
        prediction = self._model.decode(tokens[0], positions[0])
        return [self._pick(prediction, positions[0] + 1, samplings[0])]

    def advance(self, slots: Any, tokens: Any, positions: Any, samplings: Any) -> list[list[int]]:
        return [self.decode(slots, tokens, positions, samplings)]

    def verify(
        self, slot: int, trunk: Any, start: int, suffix: Any, cuts: Any, threshold: float, rule: str
    ) -> Verdict:
        verdicts = self._model.verify(trunk, start, suffix, cuts)
        return Verdict(selection(rule)(cuts, verdicts, threshold), verdicts)

    def _pick(self, prediction: Any, position: int, sampling: Sampling) -> int:
        return Sampler(sampling.temperature, sampling.seed + position).pick(prediction)


def _voice(session: Any, prefix: str) -> Voice:
    tokenizer = Tokenizer.from_json(session.file(f"{prefix}tokenizer.json").decode())
    name = f"{prefix}chat.json"
    try:
        return Voice(tokenizer, Chat.from_dict(json.loads(session.file(name))))
    except (ValueError, LookupError, TypeError) as error:
        raise FoundryError(f"the bundle's {name} cannot be read: {error}") from error
