"""An application that passes requests on to a server that stood by, and its answers back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from urllib.parse import quote

import aiohttp
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send
from yarl import URL

from examples.deploy.ray_standby import Server

_OF_ONE_CONNECTION = {
    "connection", "host", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"
}  # fmt: skip
"""Headers that are not passed on."""


class Relay:
    """Passes answers back as they come; RuntimeError where the server ends before it listens."""

    def __init__(self, server: Server) -> None:
        self._server, self._address = server, server.address

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
                request.method, self._target(scope),
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

    def _target(self, scope: Scope) -> URL:
        """A path of the server's, as the client wrote it; one that names a host names none."""
        raw = scope.get("raw_path") or quote(scope["path"]).encode()
        path = raw.decode("latin-1").removeprefix(scope.get("root_path", ""))
        query = scope["query_string"].decode("latin-1")
        asked = f"/{path.lstrip('/')}" + (f"?{query}" if query else "")
        return URL(self._address + asked, encoded=True)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        try:
            async with aiohttp.ClientSession(
                self._address,
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
