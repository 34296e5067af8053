"""Prompts for `foundryrt run`: one of the command line, or JSON lines of a file or stdin."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

import msgspec

from foundryrt.errors import UsageError
from parse_runtime.engine.batch import Sampling
from parse_runtime.engine.prompts import Prompts, Raw
from parse_runtime.engine.request import Request
from parse_runtime.engine.rules import BundleRules
from parse_runtime.text.chat import Conversation

_LONGEST = 8 << 20
"""Bytes of a line."""


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
class Refused:
    """A line that cannot be answered; among results it stands where its `Outcome` would."""

    error: UsageError
    done: bool = True

    def report(self) -> dict[str, Any]:
        """JSON-able."""
        return {"error": str(self.error)}


@dataclass(frozen=True)
class Defaults:
    """Values for what a line leaves out."""

    max_new_tokens: int
    sampling: Sampling
    stops: Sequence[str]
    rules: BundleRules

    def job(self, prompts: Prompts, line: Line) -> Job:
        """UsageError where the line cannot be answered."""
        if bool(line.prompt) == bool(line.messages):
            raise UsageError("give either a prompt or messages")
        conversation: Conversation | Raw = line.prompt or [
            {"role": turn.role, "content": turn.content} for turn in line.messages
        ]
        if line.prompt and not prompts.target.chat.template:
            conversation = Raw(line.prompt)
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


def read(place: str, prompts: Prompts, defaults: Defaults, max_len: int) -> list[Job | Refused]:
    """What the lines of the file at `place` ask for, "-" for stdin; a bad one is named.

    UsageError where the file cannot be read or has no lines.
    """
    jobs: list[Job | Refused] = []
    name = "stdin" if place == "-" else place
    with _opened(place) as file:
        for number, text in enumerate(_lines(file), start=1):
            if not text.strip():
                continue
            try:
                job = defaults.job(prompts, _line(text))
                job.request.check(max_len)
            except UsageError as error:
                jobs.append(Refused(UsageError(f"{name} line {number}: {error}")))
            else:
                jobs.append(job)
    if not jobs:
        raise UsageError(f"{name}: no prompts")
    return jobs


@contextmanager
def _opened(place: str) -> Iterator[BinaryIO]:
    if place == "-":
        if sys.stdin is None:
            raise UsageError("stdin is closed")
        yield sys.stdin.buffer
        return
    try:
        with open(place, "rb") as file:
            yield file
    except OSError as error:
        raise UsageError(f"{place}: {error.strerror}") from None


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines; of one that is too long, its beginning, one byte longer than may be."""
    for line in iter(partial(file.readline, _LONGEST + 1), b""):
        rest = line
        while len(rest) > _LONGEST and not rest.endswith(b"\n"):
            rest = file.readline(_LONGEST + 1)
        yield line


def _line(text: bytes) -> Line:
    """UsageError where the text is not such an object."""
    if len(text) > _LONGEST:
        raise UsageError(f"longer than {_LONGEST} bytes")
    try:
        return msgspec.convert(json.loads(text, object_pairs_hook=_object), Line)
    except msgspec.ValidationError as error:
        raise UsageError(str(error)) from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"no JSON: {error}") from None


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """UsageError for a name given twice: the first value would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"{twice!r} is given twice: leave one of them out")
    return found
