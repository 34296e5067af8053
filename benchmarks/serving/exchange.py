"""A request, as clients of many kinds make it.

Over plain sockets: what came before a connection broke, and how it broke, is what counts here.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from benchmarks.serving.stream import request

DONE = b"[DONE]"
_SLOW_BUFFER = 4096
_SLOW_READ = 8192
"""Bytes at a time, and a pause after them."""
_SLOW_PAUSE = 0.05


@dataclass(frozen=True)
class Manner:
    """How a client behaves."""

    stream: bool = False
    leaves: float | None = None
    """After so many seconds."""
    slow: bool = False
    half: bool = False
    """Half a request is sent, and no more."""
    again: bool = False
    """Asks once more on the same connection; the second answer counts."""


@dataclass
class Reply:
    """What came; `status` 0: nothing did."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = False
    """The body came to the end that HTTP gives it."""
    again: bool = False
    """It is the second on its connection."""
    left: bool = False
    """The client left before the end."""

    @property
    def events(self) -> list[dict[str, Any]]:
        """Of a stream, or the whole body as the only one; ValueError where it is no JSON."""
        if not self.headers.get("content-type", "").startswith("text/event-stream"):
            return [json.loads(self.body)]
        parts = [part.removeprefix(b"data: ") for part in self.body.split(b"\n\n") if part]
        return [json.loads(part) for part in parts if part != DONE]

    @property
    def keeps(self) -> bool:
        """The connection may be used again."""
        return self.whole and self.headers.get("connection") != "close"

    @property
    def done(self) -> bool:
        """A stream has said that it is done."""
        return self.body.endswith(b"data: " + DONE + b"\n\n")


async def exchange(port: int, path: str, body: dict[str, Any], manner: Manner) -> Reply:
    """Ask, and read what comes until it ends, breaks, or the client leaves.

    ConnectionError where nobody listens.
    """
    connection = socket.socket()
    try:
        if manner.slow:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_BUFFER)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=connection, limit=_SLOW_READ)
    except BaseException:
        connection.close()
        raise
    reply = Reply()
    try:
        asked = request(path, body)
        writer.write(asked[: len(asked) // 2] if manner.half else asked)
        # What broke, and where, is told by what is in the reply.
        with suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            async with asyncio.timeout(manner.leaves) as staying:
                await _read(reader, reply, manner.slow)
                if manner.again and reply.status == 200 and reply.keeps:
                    reply = Reply(again=True)
                    writer.write(asked)
                    await _read(reader, reply, manner.slow)
        reply.left = staying.expired()
    finally:
        writer.close()
    return reply


async def _read(reader: asyncio.StreamReader, reply: Reply, slow: bool) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = (line.split(":", 1) for line in head[1:] if line)
    reply.headers = {name.lower(): value.strip() for name, value in fields}
    reply.status = int(head[0].split()[1])
    async for data in _body(reader, reply.headers):
        reply.body += data
        if slow:
            await asyncio.sleep(_SLOW_PAUSE)
    reply.whole = True


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> AsyncIterator[bytes]:
    if "content-length" in headers:
        async for data in _exactly(reader, int(headers["content-length"])):
            yield data
        return
    while size := int(await reader.readuntil(b"\r\n"), 16):
        async for data in _exactly(reader, size):
            yield data
        await reader.readexactly(2)
    await reader.readexactly(2)


async def _exactly(reader: asyncio.StreamReader, size: int) -> AsyncIterator[bytes]:
    while size:
        data = await reader.readexactly(min(size, _SLOW_READ))
        size -= len(data)
        yield data
