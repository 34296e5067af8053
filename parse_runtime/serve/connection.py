"""Connections of clients: how many there may be, and how long one may keep the server waiting."""

from __future__ import annotations

import asyncio
import os
import resource
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

import msgspec
from uvicorn.protocols.http.h11_impl import H11Protocol

from parse_runtime.serve.errors import ApiError

BACKLOG = 32
"""Connections that are accepted in one turn of the event loop."""
_SPARE_FILES = 4 * BACKLOG
"""Of one turn's connections while others are being closed, and of the process itself."""
_FEWEST = 8
_ON_ITS_WAY = 0.5
"""Seconds for a request that a client has sent before it can know that the server stops."""


@dataclass(frozen=True)
class Limits:
    """`seconds`: for a request to come in, or for a client to read on."""

    connections: int
    seconds: float


def connections_allowed(wanted: int) -> int:
    """`wanted`, or as many as the process may have files open.

    Without a file for it no connection can even be refused.
    """
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if most == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, max(most - len(os.listdir("/dev/fd")) - _SPARE_FILES, _FEWEST))


class Connection(H11Protocol):
    """One connection; where there are too many, the one that is idle longest makes room."""

    def __init__(self, limits: Limits, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        # Applications find it in their scope.
        self.app_state = {**self.app_state, "connection": self}
        self._limits = limits
        self._heard = self.loop.time()
        self._refused = False
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """No request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def flowing(self) -> bool:
        """`send_chunk` may be called: the client reads, and the answer is sent in chunks."""
        return (
            not self.flow.write_paused
            and not self.transport.is_closing()
            and self.cycle.scope["http_version"] == "1.1"
        )

    def send_chunk(self, data: bytes) -> None:
        """Part of the body of the answer that has begun, beside those that go through ASGI."""
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._reading = self._later(self._too_slow)
        if len(self.connections) > self._limits.connections:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        self._heard = self.loop.time()
        if self._refused:
            self._refuse(ApiError(503, "too many connections: come again later", code="overloaded"))
            return
        super().data_received(data)
        if self.transport.is_closing() or not (self.idle or self.cycle.more_body):
            self._reading = _cancelled(self._reading)
        elif self._reading is None:
            self._reading = self._later(self._too_slow)

    def shutdown(self) -> None:
        """Close once what is asked, or on its way, is answered."""
        if self.idle:
            self.loop.call_later(_ON_ITS_WAY, self._end)
        else:
            super().shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing = self._later(self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._writing = _cancelled(self._writing)

    def connection_lost(self, exc: Exception | None) -> None:
        self._reading, self._writing = _cancelled(self._reading), _cancelled(self._writing)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._refuse(ApiError(400, msg))

    def _later(self, call: Any) -> asyncio.TimerHandle:
        return self.loop.call_later(self._limits.seconds, call)

    def _too_slow(self) -> None:
        self._reading = None
        if self.conn.trailing_data[0] or not self.idle:
            self._refuse(ApiError(408, f"no whole request in {self._limits.seconds} seconds"))
        else:
            self.transport.abort()

    def _end(self) -> None:
        if self.transport.is_closing() or not self.idle:
            return
        if self.conn.trailing_data[0]:
            self._refuse(ApiError(503, "the server stops", code="stopped"))
        else:
            self.transport.close()

    def _make_room(self) -> None:
        others = [
            other
            for other in self.connections
            if isinstance(other, Connection)
            and other is not self
            and not other.transport.is_closing()
        ]
        refused = [other for other in others if other._refused]
        if len(others) - len(refused) < self._limits.connections:
            return
        idle = [other for other in others if other.idle and not other._refused]
        if not idle:
            # It hears so when it has asked: an answer that is sent before may be lost.
            self._refused = True
            idle = refused if len(refused) >= BACKLOG else []
        if idle:
            min(idle, key=lambda other: other._heard).transport.abort()

    def _refuse(self, error: ApiError) -> None:
        """Say so, unless an answer has begun already, and close."""
        if not self.idle and self.cycle.response_started:
            self.transport.abort()
            return
        body = msgspec.json.encode(error.body())
        phrase = HTTPStatus(error.status).phrase
        head = (
            f"HTTP/1.1 {error.status} {phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def _cancelled(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """None, in place of the timer."""
    if timer is not None:
        timer.cancel()
    return None


def connection_type(limits: Limits) -> Any:
    """What uvicorn makes a connection with."""
    return partial(Connection, limits)
