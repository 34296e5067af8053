"""An application that passes requests on to a server that stood by, and its answers back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from urllib.parse import quote

import aiohttp
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
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
        """Where the client leaves, the server's answer is given up, even before its head."""
        try:
            body = await Request(scope, receive).body()
        except ClientDisconnect:
            return
        tasks = [
            asyncio.create_task(one) for one in (self._answer(scope, body, send), _left(receive))
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].done():
                tasks[0].result()  # what it raised
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, scope: Scope, body: bytes, send: Send) -> None:
        request = Request(scope)
        try:
            answer = await self._client.request(
                request.method, self._target(scope),
                data=body, headers=_whole_way(request.headers.items()),
                allow_redirects=False,
            )  # fmt: skip
        except aiohttp.ClientError as error:
            said = {"message": f"the replica's server is gone: {error}", "type": "server_error"}
            await JSONResponse({"error": said}, 502)(scope, request.receive, send)
            return
        async with answer:
            headers = [
                (name.lower().encode("latin-1"), value.encode("latin-1"))
                for name, value in _whole_way(answer.headers.items())
            ]
            start = {"type": "http.response.start", "status": answer.status, "headers": headers}
            await send(start)
            async for part in answer.content.iter_any():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

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


async def _left(receive: Receive) -> None:
    """Waits for a client, whose whole request is there, to leave."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _whole_way(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [one for one in headers if one[0].lower() not in _OF_ONE_CONNECTION]
