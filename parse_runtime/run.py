"""`foundryrt run` of a parse bundle: answers one prompt, streaming."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from foundryrt.errors import FoundryError, UsageError
from parse_runtime.backend import GraphModel
from parse_runtime.engine import Engine
from parse_runtime.judge import selection, sentence_cuts, stride_cuts
from parse_runtime.roles import Rules
from parse_runtime.sampling import Sampler
from parse_runtime.text.chat import Chat
from parse_runtime.text.tokenizer import TextStream, Tokenizer


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass(frozen=True, kw_only=True)
class Options:
    """A prompt, and what differs from the settings of the capture."""

    prompt: str = field(metadata=_help("the user's question"))
    max_new_tokens: int = field(default=128, metadata=_help("longest answer in tokens"))
    temperature: float = field(default=0.0, metadata=_help("0 is greedy"))
    seed: int = field(default=0, metadata=_help("of the sampling"))
    threshold: float | None = field(default=None, metadata=_help("least verdict that accepts"))
    selection: str = field(default="", metadata=_help("first-failure or longest-accepted"))
    two_stage: bool | None = field(default=None, metadata=_help("judge the whole draft first"))
    stride: int | None = field(default=None, metadata=_help("least tokens between cuts"))
    max_rounds: int | None = field(default=None, metadata=_help("drafts; 0: the target alone"))
    judge_prompt: str = field(default="", metadata=_help("the question to the judge"))

    def __post_init__(self) -> None:
        Sampler(self.temperature, self.seed)
        if self.selection:
            selection(self.selection)
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UsageError(f"threshold {self.threshold}: a probability is needed")
        if self.stride is not None and self.stride < 1:
            raise UsageError(f"stride {self.stride}: at least 1 is needed")
        if self.max_rounds is not None and self.max_rounds < 0:
            raise UsageError(f"max-rounds {self.max_rounds}: at least 0 is needed")


def run(session: Any, options: Options, json: bool) -> dict[str, object]:
    """Answer the prompt; the text, the counts and the times of it."""
    tokenizer = Tokenizer.from_json(session.file("tokenizer.json").decode())
    try:
        chat = Chat.from_dict(jsonlib.loads(session.file("chat.json")))
    except (ValueError, LookupError, TypeError) as error:
        raise FoundryError(f"the bundle's chat.json cannot be read: {error}") from error
    settings = session.settings
    rules = _rules(settings, options, chat, tokenizer)
    engine = Engine(
        GraphModel(session, "target", settings["max_len"], tokenizer.fingerprint),
        GraphModel(session, "draft", settings["max_len"], tokenizer.fingerprint),
        rules,
        Sampler(options.temperature, options.seed),
    )
    stream, pieces = TextStream(tokenizer), []

    def emit(tokens: Sequence[int]) -> None:
        pieces.append(stream.push(tokens))
        if not json:
            sys.stdout.write(pieces[-1])
            sys.stdout.flush()

    prompt = tokenizer.encode(chat.prompt(options.prompt))
    statistics = engine.generate(prompt, options.max_new_tokens, emit)
    report = {"text": "".join(pieces), "prompt_tokens": len(prompt), **statistics.report()}
    if not json:
        print(
            f"\n\n{report['tokens_per_second']:.1f} tokens/s, {statistics.tokens} tokens in "
            f"{statistics.seconds:.2f} s; drafted {statistics.drafted}, "
            f"accepted {statistics.accepted}"
        )
    return report


def _rules(settings: Any, options: Options, chat: Chat, tokenizer: Tokenizer) -> Rules:
    """The capture's settings where the options say nothing else."""

    def value(name: str) -> Any:
        given = getattr(options, name)
        return settings[name] if given is None or given == "" else given

    suffix = tokenizer.encode(chat.judge_suffix(options.prompt, value("judge_prompt")))
    return Rules(
        cuts=_cuts(settings["cut_at"], value("stride"), tokenizer),
        suffix=suffix,
        stops=frozenset(chat.stops),
        threshold=value("threshold"),
        select=selection(value("selection")),
        two_stage=value("two_stage"),
        max_rounds=value("max_rounds"),
        resume_tokens=settings["resume_tokens"],
    )


def _cuts(cut_at: str, stride: int, tokenizer: Tokenizer) -> Callable[[Sequence[int]], list[int]]:
    if cut_at == "sentence":
        return lambda draft: sentence_cuts([tokenizer.decode([token]) for token in draft], stride)
    return lambda draft: stride_cuts(len(draft), stride)
