"""Answers as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import msgspec
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from parse_runtime.serve.completion import CompletionFormat
from parse_runtime.serve.errors import translated
from parse_runtime.serve.streamed import Answers


class Events(StreamingResponse):
    """`close` is called with the answers at the end, also where the client leaves before."""

    def __init__(
        self,
        answers: Answers,
        completion: CompletionFormat,
        close: Callable[[Answers], None],
    ) -> None:
        super().__init__(_events(answers, completion), media_type="text/event-stream")
        self._answers, self._close = answers, close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close(self._answers)


async def _events(answers: Answers, completion: CompletionFormat) -> AsyncIterator[bytes]:
    try:
        for outcome in answers.outcomes:
            if (first := completion.first(outcome.index)) is not None:
                yield _event(first)
        async for part in answers:
            yield _event(completion.last(part) if part.last else completion.chunk(part))
        if completion.counted:
            yield _event(completion.usage(answers.outcomes))
    except Exception as error:
        yield _event(translated(error).body())
    yield b"data: [DONE]\n\n"


def _event(value: object) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
