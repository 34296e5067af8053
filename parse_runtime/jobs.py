"""Prompts for `foundryrt run`: one of the command line, or JSON lines of a file or stdin."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from foundryrt.errors import UsageError
from parse_runtime.prompts import Prompts
from parse_runtime.request import Request
from parse_runtime.roles import Sampling
from parse_runtime.rules import Rules
from parse_runtime.text.chat import Conversation


class Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message of a conversation."""

    role: str
    content: str


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line: a prompt or messages, and what differs from the options of the command."""

    prompt: str = ""
    messages: tuple[Turn, ...] = ()
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | tuple[str, ...] | None = None
    parse: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Job:
    """A request and the strings that end its text."""

    request: Request
    stops: Sequence[str]


@dataclass(frozen=True)
class Defaults:
    """What a line does not say."""

    max_new_tokens: int
    sampling: Sampling
    stops: Sequence[str]
    rules: Rules

    def job(self, prompts: Prompts, line: Line) -> Job:
        """UsageError for what cannot work."""
        if bool(line.prompt) == bool(line.messages):
            raise UsageError("give either a prompt or messages")
        conversation: Conversation = line.prompt or [
            {"role": turn.role, "content": turn.content} for turn in line.messages
        ]
        ours = self.sampling
        sampling = Sampling(
            ours.temperature if line.temperature is None else line.temperature,
            ours.top_p if line.top_p is None else line.top_p,
            ours.seed if line.seed is None else line.seed,
        )
        most = self.max_new_tokens if line.max_new_tokens is None else line.max_new_tokens
        rules = self.rules.changed(line.parse)
        stops = (line.stop,) if isinstance(line.stop, str) else line.stop
        return Job(
            prompts.request(conversation, most, sampling, rules),
            self.stops if stops is None else stops,
        )


def read(place: str, prompts: Prompts, defaults: Defaults, max_len: int) -> list[Job]:
    """Jobs of the file at `place`, "-" for stdin; UsageError names the line that is wrong."""
    jobs = []
    for number, text in enumerate(_lines(place), start=1):
        if not text.strip():
            continue
        try:
            job = defaults.job(prompts, msgspec.json.decode(text, type=Line))
            job.request.check(max_len)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, UsageError) as error:
            raise UsageError(f"{place} line {number}: {error}") from None
        jobs.append(job)
    if not jobs:
        raise UsageError(f"{place}: no prompts")
    return jobs


def _lines(place: str) -> Iterator[bytes]:
    if place == "-":
        yield from sys.stdin.buffer
        return
    try:
        with open(place, "rb") as file:
            yield from file
    except OSError as error:
        raise UsageError(f"{place}: {error.strerror}") from None
