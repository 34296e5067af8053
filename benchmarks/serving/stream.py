"""A streamed completion over HTTP/1.1: what came when, kept as it comes and read afterwards.

Needs nothing but Python, so that a load costs little and runs wherever there is a server.
"""

from __future__ import annotations

import asyncio
import json
import time
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

_END = b"\r\n0\r\n\r\n"
"""Of a chunked body; a line of an event ends in no carriage return."""
_OK = b"HTTP/1.1 200"


@dataclass
class Reply:
    """The bytes that came, each piece with the time of its arrival (`time.perf_counter`)."""

    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    whole: bool = False


class Connection(asyncio.Protocol):
    """Asks one question after another; `open` is false once the server has closed it."""

    def __init__(self) -> None:
        self.open = False
        self._reply = Reply()
        self._tail = b""
        self._done: asyncio.Future[None] | None = None

    @staticmethod
    async def to(port: int) -> Connection:
        """Connected to a port of this machine."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
        return connection

    async def ask(self, request: bytes) -> Reply:
        """The reply once it has ended, or as much of it as came."""
        self._reply, self._tail = Reply(), b""
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        await self._done
        return self._reply

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self.open = transport, True

    def data_received(self, data: bytes) -> None:
        reply = self._reply
        reply.pieces.append((time.perf_counter(), data))
        self._tail = (self._tail + data)[-len(_END) :]
        if self._tail == _END:
            reply.whole = True
            self._end()
        elif len(reply.pieces) == 1 and not data.startswith(_OK):
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self._end()

    def _end(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)


def request(path: str, body: object) -> bytes:
    """A POST of JSON."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


@dataclass(frozen=True)
class Told:
    """What a reply said: texts with the times of their arrival, tokens, or an error."""

    times: list[float]
    text: str = ""
    tokens: int = 0
    error: str = ""

    @property
    def gaps(self) -> list[float]:
        """Seconds between texts."""
        return [after - before for before, after in pairwise(self.times)]


def read(reply: Reply) -> Told:
    """Of a stream of /v1/completions with its usage."""
    raw = b"".join(data for _, data in reply.pieces)
    if not raw.startswith(_OK):
        return Told([], error=raw.decode(errors="replace")[:400] or "the connection was closed")
    times: list[float] = []
    texts, tokens = [], 0
    try:
        for when, event in _events(reply, raw):
            if "error" in event:
                return Told(times, error=str(event["error"]))
            for choice in event["choices"]:
                if choice["text"]:
                    times.append(when)
                    texts.append(choice["text"])
            if usage := event.get("usage"):
                tokens = usage["completion_tokens"]
    except (ValueError, LookupError, TypeError) as error:
        return Told(times, error=f"{type(error).__name__}: {error}")
    return Told(times, "".join(texts), tokens, "" if reply.whole and tokens else "it broke off")


def _events(reply: Reply, raw: bytes) -> Iterator[tuple[float, dict[str, Any]]]:
    """JSON of each event, with the time when its last byte came."""
    ends = list(accumulate(len(data) for _, data in reply.pieces))
    at, held = raw.index(b"\r\n\r\n") + 4, b""
    while at < len(raw):
        line = raw.index(b"\r\n", at)
        begin, size = line + 2, int(raw[at:line], 16)
        when = reply.pieces[min(bisect_left(ends, begin + size), len(ends) - 1)][0]
        *whole, held = (held + raw[begin : begin + size]).split(b"\n\n")
        for event in whole:
            content = event.removeprefix(b"data: ")
            if content != b"[DONE]":
                yield when, json.loads(content)
        at = begin + size + 2
