"""Answers as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from parse_runtime.serve.completion import CompletionFormat
from parse_runtime.serve.connection import Connection
from parse_runtime.serve.errors import translated
from parse_runtime.serve.streamed import Answers, Part


class Events(StreamingResponse):
    """`close` is called with the answers at the end, also where the client leaves before."""

    def __init__(
        self,
        answers: Answers,
        completion: CompletionFormat,
        close: Callable[[Answers], None],
    ) -> None:
        super().__init__((), media_type="text/event-stream")
        self._answers, self._completion, self._close = answers, completion, close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def say(events: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": events, "more_body": more})

        connection = scope.get("state", {}).get("connection")
        if connection is not None:
            self._answers.direct = partial(_direct, connection, self._completion)
        # The base class has a group of tasks, which costs as much as many tokens.
        watching = asyncio.create_task(self._watch(receive))
        try:
            await send(
                {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            )  # fmt: skip
            await self._tell(say)
        except ClientDisconnect:
            pass
        finally:
            watching.cancel()
            self._close(self._answers)

    async def _watch(self, receive: Receive) -> None:
        await self.listen_for_disconnect(receive)
        self._answers.abandon(ClientDisconnect())

    async def _tell(self, say: Callable[..., Awaitable[None]]) -> None:
        """The events; those at the end of the last answer go out together."""
        answers, completion = self._answers, self._completion
        left, last = len(answers.outcomes), b""
        try:
            for outcome in answers.outcomes:
                if (first := completion.first(outcome.index)) is not None:
                    await say(_event(msgspec.json.encode(first)))
            async for part in answers:
                left -= part.last
                if left:
                    await say(_event(completion.encoded(part)))
                else:
                    last = _event(completion.encoded(part))
            if completion.counted:
                last += _event(msgspec.json.encode(completion.usage(answers.outcomes)))
        except ClientDisconnect:
            raise
        except Exception as error:
            last = _event(msgspec.json.encode(translated(error).body()))
        await say(last + b"data: [DONE]\n\n", more=False)


def _direct(connection: Connection, completion: CompletionFormat, part: Part) -> bool:
    """Send a part without a turn of its task; a client that is slow has parts joined."""
    if not connection.flowing:
        return False
    connection.send_chunk(_event(completion.encoded(part)))
    return True


def _event(encoded: bytes) -> bytes:
    return b"data: " + encoded + b"\n\n"
