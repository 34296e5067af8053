"""A server in the process that stands by on this node, and an application that passes requests on.

Ray takes a second to import before a replica's code is called; the server is there at once then.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress

import aiohttp
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from foundryrt.standby import client, wire

_LISTENING = re.compile(r"listening on (http://\S+)/v1")
_LAST_WORDS = 10
"""Seconds beyond the grace, for a server to end."""
_OF_ONE_CONNECTION = {"connection", "host", "keep-alive", "transfer-encoding"}
"""Headers that are not passed on (RFC 9110, 7.6.1)."""


class Server:
    """`foundryrt serve` in another process, on a free port; what it says goes on to stderr.

    It ends with this process. OSError where nobody stands by at `path`, RuntimeError where the
    server ends before it listens.
    """

    def __init__(self, path: str, arguments: list[str], grace: int) -> None:
        self._grace = grace
        self._connection = socket.socket(socket.AF_UNIX)
        reading, writing = os.pipe()
        words = ["serve", *arguments, "--port", "0", "--grace", str(grace)]
        try:
            self._connection.connect(path)
            with open(os.devnull) as nothing:
                files = (nothing.fileno(), writing, writing)
                wire.send(self._connection, *client.message(words), files=files)
        except OSError:
            os.close(reading)
            self._connection.close()
            raise
        finally:
            os.close(writing)
        listening: Future[str] = Future()
        self._reader = threading.Thread(target=self._read, args=(reading, listening), daemon=True)
        self._reader.start()
        self.address = listening.result()

    @property
    def ended(self) -> bool:
        """Nobody answers any more."""
        return not self._reader.is_alive()

    def end(self) -> None:
        """End it when its requests are done, or after the grace."""
        with suppress(OSError):  # it has ended
            wire.send(self._connection, "signal", str(int(signal.SIGTERM)))
        self._reader.join(self._grace + _LAST_WORDS)

    def _read(self, output: int, listening: Future[str]) -> None:
        last: deque[str] = deque(maxlen=5)
        with open(output, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                sys.stderr.write(line)
                last.append(line)
                if (found := _LISTENING.search(line)) and not listening.done():
                    listening.set_result(found[1])
        with suppress(OSError, ValueError):
            if (answer := wire.receive(self._connection)[0]) and answer[0] == "refused":
                last.append(answer[1])
        if not listening.done():
            listening.set_exception(RuntimeError("".join(last) or "it has ended"))


class Relay:
    """Passes requests on to a server, and its answers back as they come."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def app(self) -> Starlette:
        """The application; the server ends with it."""
        return Starlette(routes=[Mount("/", self)], lifespan=self._lifespan)

    async def check(self) -> None:
        """RuntimeError where the server no longer answers."""
        if self._server.ended:
            raise RuntimeError("the server has ended")
        async with self._client.get("/health") as answer:
            if (state := (await answer.json())["status"]) == "failing":
                raise RuntimeError(f"the server is {state}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            answer = await self._client.request(
                request.method, str(request.url.replace(scheme="", netloc="")),
                data=await request.body(), headers=_whole_way(request.headers.items()),
                allow_redirects=False,
            )  # fmt: skip
        except aiohttp.ClientError as error:
            said = {"message": f"the replica's server is gone: {error}", "type": "server_error"}
            await JSONResponse({"error": said}, 502)(scope, receive, send)
            return
        async with answer:
            headers = dict(_whole_way(answer.headers.items()))
            parts = answer.content.iter_any()
            await StreamingResponse(parts, answer.status, headers)(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        try:
            async with aiohttp.ClientSession(
                self._server.address,
                # The server closes connections that rest: each request has its own.
                connector=aiohttp.TCPConnector(limit=0, force_close=True),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
            ) as self._client:
                yield
        finally:
            await run_in_threadpool(self._server.end)


def _whole_way(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [one for one in headers if one[0].lower() not in _OF_ONE_CONNECTION]
