"""Completions as OpenAI's API has them, whole and in chunks, as text or as chat."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from parse_runtime.engine.outcome import Outcome
from parse_runtime.sampling.sampler import TokenLogprobs
from parse_runtime.serve.likelihoods import chat_logprobs, text_logprobs
from parse_runtime.serve.streamed import Part
from parse_runtime.text.spelling import Spelling

Json = dict[str, Any]


@dataclass(frozen=True)
class CompletionFormat:
    """The JSON of the answers to one request."""

    chat: bool
    model: str
    counted: bool = False
    """The stream ends with a chunk of the usage, and the others say that they have none."""
    spelling: Spelling | None = None
    """How tokens are written, where their log probabilities are wanted."""
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))
    _around: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    """Of an answer's chunks, what is before and behind the text."""

    def whole(self, outcomes: Sequence[Outcome]) -> Json:
        """The whole answers, with the counts of PARSE as `parse`: a list of several answers'."""
        choices = []
        for index, outcome in enumerate(outcomes):
            text = {"text": outcome.text}
            message = {"message": {"role": "assistant", "content": outcome.text}}
            logprobs = self._logprobs(outcome.logprobs)
            content = message if self.chat else text
            choices.append(_choice(index, content, logprobs, outcome.reason))
        reports = [outcome.statistics.report() for outcome in outcomes]
        return {
            **self._head("chat.completion" if self.chat else "text_completion", choices),
            "usage": usage(outcomes),
            "parse": reports[0] if len(reports) == 1 else reports,
        }

    def first(self, index: int) -> Json | None:
        """What the stream of an answer begins with."""
        return self._chunk(index, {"role": "assistant", "content": ""}) if self.chat else None

    def chunk(self, part: Part) -> Json:
        """A chunk of text."""
        content = {"content": part.text} if self.chat else part.text
        return self._chunk(part.outcome.index, content, self._logprobs(part.logprobs))

    def encoded(self, part: Part) -> bytes:
        """A part of an answer, its last one too, as the JSON of a chunk."""
        if part.last:
            return msgspec.json.encode(self.last(part))
        if self.spelling is not None:
            return msgspec.json.encode(self.chunk(part))
        around = self._around.get(part.outcome.index)
        if around is None:
            encoded = msgspec.json.encode(self.chunk(Part(part.outcome, self.id)))
            before, _, behind = encoded.partition(f'"{self.id}"'.encode())
            around = self._around[part.outcome.index] = before, behind
        return around[0] + msgspec.json.encode(part.text) + around[1]

    def last(self, part: Part) -> Json:
        """The chunk that says why an answer ended, with the counts of PARSE.

        It has the log probabilities of tokens that came without text.
        """
        outcome = part.outcome
        logprobs = self._logprobs(part.logprobs) if part.logprobs else None
        end = self._chunk(outcome.index, {} if self.chat else "", logprobs, outcome.reason)
        return {**end, "parse": outcome.statistics.report()}

    def usage(self, outcomes: Sequence[Outcome]) -> Json:
        """The chunk after the last, for clients that ask for it."""
        return {**self._head(self._chunk_kind(), []), "usage": usage(outcomes)}

    def _logprobs(self, entries: Sequence[TokenLogprobs]) -> Json | None:
        if self.spelling is None:
            return None
        return (
            chat_logprobs(entries, self.spelling)
            if self.chat
            else text_logprobs(entries, self.spelling)
        )

    def _chunk(
        self,
        index: int,
        content: Json | str,
        logprobs: Json | None = None,
        reason: str | None = None,
    ) -> Json:
        named = {"delta": content} if self.chat else {"text": content}
        chunk = self._head(self._chunk_kind(), [_choice(index, named, logprobs, reason)])
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


def _choice(index: int, content: Json, logprobs: Json | None, reason: str | None) -> Json:
    return {"index": index, **content, "logprobs": logprobs, "finish_reason": reason}
