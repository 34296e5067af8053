"""An answer as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import msgspec
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from parse_runtime.serve.completion import CompletionFormat
from parse_runtime.serve.errors import translated
from parse_runtime.serve.streamed import StreamedOutcome


class Events(StreamingResponse):
    """`close` is called with the stream at the end, also where the client leaves before."""

    def __init__(
        self,
        stream: StreamedOutcome,
        completion: CompletionFormat,
        usage: bool,
        close: Callable[[StreamedOutcome], None],
    ) -> None:
        super().__init__(_events(stream, completion, usage), media_type="text/event-stream")
        self._stream, self._close = stream, close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close(self._stream)


async def _events(
    stream: StreamedOutcome, completion: CompletionFormat, usage: bool
) -> AsyncIterator[bytes]:
    try:
        if (first := completion.first()) is not None:
            yield _event(first)
        async for text in stream:
            yield _event(completion.chunk(text))
        yield _event(completion.last(stream))
        if usage:
            yield _event(completion.usage(stream))
    except Exception as error:
        yield _event(translated(error).body())
    yield b"data: [DONE]\n\n"


def _event(value: object) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
