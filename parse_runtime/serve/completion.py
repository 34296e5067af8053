"""Completions as OpenAI's API has them, whole and in chunks, as text or as chat."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from parse_runtime.engine.outcome import Outcome

Json = dict[str, Any]


@dataclass(frozen=True)
class CompletionFormat:
    """The JSON of one answer."""

    chat: bool
    model: str
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, outcome: Outcome) -> Json:
        """The whole answer, with the counts of PARSE as `parse`."""
        text = {"text": outcome.text}
        message = {"message": {"role": "assistant", "content": outcome.text}}
        choice = self._choice(message if self.chat else text, outcome.reason)
        return {
            **self._head("chat.completion" if self.chat else "text_completion", [choice]),
            "usage": usage(outcome),
            "parse": outcome.statistics.report(),
        }

    def first(self) -> Json | None:
        """What a stream begins with."""
        return self._chunk({"role": "assistant", "content": ""}) if self.chat else None

    def chunk(self, text: str) -> Json:
        """A chunk of text."""
        return self._chunk({"content": text} if self.chat else text)

    def last(self, outcome: Outcome) -> Json:
        """The chunk that says why the answer ended, with the counts of PARSE."""
        end = self._chunk({} if self.chat else "", outcome.reason)
        return {**end, "parse": outcome.statistics.report()}

    def usage(self, outcome: Outcome) -> Json:
        """The chunk after the last, for clients that ask for it."""
        return {**self._head(self._chunk_kind(), []), "usage": usage(outcome)}

    def _chunk(self, content: Json | str, reason: str | None = None) -> Json:
        named = {"delta": content} if self.chat else {"text": content}
        return self._head(self._chunk_kind(), [self._choice(named, reason)])

    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _choice(self, content: Json, reason: str | None) -> Json:
        return {"index": 0, **content, "logprobs": None, "finish_reason": reason}

    def _head(self, kind: str, choices: list[Json]) -> Json:
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {
            "id": f"{prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def usage(outcome: Outcome) -> Json:
    """Tokens of prompt and answer."""
    prompt, answer = len(outcome.request.prompt), outcome.statistics.tokens
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
