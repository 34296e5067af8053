"""An answer as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import msgspec
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from parse_runtime.serve.errors import translated
from parse_runtime.serve.shape import Shape
from parse_runtime.serve.stream import Stream


class Events(StreamingResponse):
    """`close` is called with the stream at the end, also where the client leaves before."""

    def __init__(
        self, stream: Stream, shape: Shape, usage: bool, close: Callable[[Stream], None]
    ) -> None:
        super().__init__(_events(stream, shape, usage), media_type="text/event-stream")
        self._stream, self._close = stream, close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close(self._stream)


async def _events(stream: Stream, shape: Shape, usage: bool) -> AsyncIterator[bytes]:
    try:
        if (first := shape.first()) is not None:
            yield _event(first)
        async for piece in stream:
            yield _event(shape.piece(piece))
        yield _event(shape.last(stream))
        if usage:
            yield _event(shape.usage(stream))
    except Exception as error:
        yield _event(translated(error).body())
    yield b"data: [DONE]\n\n"


def _event(value: object) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
