"""The models and the text files of an open parse bundle."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

from foundryrt.errors import FoundryError, UsageError
from parse_runtime.engine.prompts import Prompts, Voice
from parse_runtime.engine.protocols import Decoder, Target
from parse_runtime.engine.rules import Rules
from parse_runtime.graphs.target import open_models
from parse_runtime.text.chat import Chat
from parse_runtime.text.tokenizer import Tokenizer
from parse_runtime.text.translation import Alike, Pair, Unlike

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
        *open_models(session),
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


def _voice(session: Any, prefix: str) -> Voice:
    name = f"{prefix}tokenizer.json"
    try:
        tokenizer = Tokenizer.from_json(session.file(name).decode())
        name = f"{prefix}chat.json"
        return Voice(tokenizer, Chat.from_dict(json.loads(session.file(name))))
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise FoundryError(f"the bundle's {name} cannot be read: {error}") from error
