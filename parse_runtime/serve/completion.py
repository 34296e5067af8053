"""Completions as OpenAI's API has them, whole and in chunks, as text or as chat."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from parse_runtime.engine.outcome import Outcome

Json = dict[str, Any]


@dataclass(frozen=True)
class CompletionFormat:
    """The JSON of the answers to one request."""

    chat: bool
    model: str
    counted: bool = False
    """The stream ends with a chunk of the usage, and the others say that they have none."""
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, outcomes: Sequence[Outcome]) -> Json:
        """The whole answers, with the counts of PARSE as `parse`: a list of several answers'."""
        choices = []
        for index, outcome in enumerate(outcomes):
            text = {"text": outcome.text}
            message = {"message": {"role": "assistant", "content": outcome.text}}
            choices.append(_choice(index, message if self.chat else text, outcome.reason))
        reports = [outcome.statistics.report() for outcome in outcomes]
        return {
            **self._head("chat.completion" if self.chat else "text_completion", choices),
            "usage": usage(outcomes),
            "parse": reports[0] if len(reports) == 1 else reports,
        }

    def first(self, index: int) -> Json | None:
        """What the stream of an answer begins with."""
        return self._chunk(index, {"role": "assistant", "content": ""}) if self.chat else None

    def chunk(self, index: int, text: str) -> Json:
        """A chunk of text."""
        return self._chunk(index, {"content": text} if self.chat else text)

    def last(self, index: int, outcome: Outcome) -> Json:
        """The chunk that says why an answer ended, with the counts of PARSE."""
        end = self._chunk(index, {} if self.chat else "", outcome.reason)
        return {**end, "parse": outcome.statistics.report()}

    def usage(self, outcomes: Sequence[Outcome]) -> Json:
        """The chunk after the last, for clients that ask for it."""
        return {**self._head(self._chunk_kind(), []), "usage": usage(outcomes)}

    def _chunk(self, index: int, content: Json | str, reason: str | None = None) -> Json:
        named = {"delta": content} if self.chat else {"text": content}
        chunk = self._head(self._chunk_kind(), [_choice(index, named, reason)])
        return {**chunk, "usage": None} if self.counted else chunk

    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _head(self, kind: str, choices: list[Json]) -> Json:
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {
            "id": f"{prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def usage(outcomes: Sequence[Outcome]) -> Json:
    """Tokens of the prompt, once, and of all answers."""
    prompt = len(outcomes[0].request.prompt)
    answer = sum(outcome.statistics.tokens for outcome in outcomes)
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def _choice(index: int, content: Json, reason: str | None) -> Json:
    return {"index": index, **content, "logprobs": None, "finish_reason": reason}
