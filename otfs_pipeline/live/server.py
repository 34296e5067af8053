"""The page's server: one thread beside the run, by which nothing in the run waits."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import msgspec
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from foundryrt.console import note
from foundryrt.errors import UsageError
from otfs_pipeline.live.document import document
from otfs_pipeline.live.state import State

PERIOD = 0.25
"""Seconds from an update of the page to the next."""
_CONNECTIONS = 64
_LAST_WORDS = 2
_LOG = logging.getLogger(__name__)


@contextmanager
def serving(state: State, address: tuple[str, int]) -> Iterator[None]:
    """Serve while the `with` block runs, and the final state to its end.

    UsageError where the address cannot be had.
    """
    listening = _listen(address)
    host, port = listening.getsockname()[:2]
    note(f"live: http://{f'[{host}]' if ':' in host else host}:{port}/")
    service = Service(state)
    config = uvicorn.Config(
        service.app(), http="h11", ws="none", lifespan="on", log_level="error", access_log=False,
        limit_concurrency=_CONNECTIONS, timeout_graceful_shutdown=_LAST_WORDS,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), name="live", daemon=True)
    thread.start()
    try:
        yield
    finally:
        service.end()
        server.should_exit = True
        thread.join(2 * _LAST_WORDS)


def _listen(address: tuple[str, int]) -> socket.socket:
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server(address, family=family)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"--live {host}:{port}: {reason}") from None


class Service:
    """Routes; the state is looked at in the server's thread alone."""

    def __init__(self, state: State) -> None:
        self._state, self._document = state, document()
        self._viewers = 0
        self._shown = b""
        self._turned = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = False

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/", self.page),
            Route("/events", self.events),
            Route("/frames", self.frames),
            Route("/metrics", self.metrics),
        ]
        return Starlette(routes=routes, lifespan=self._lifespan)

    def end(self) -> None:
        """Show the final state, in the server's own time; from any thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the server has failed, and its loop is closed
                self._loop.call_soon_threadsafe(self._turn, True)

    async def page(self, _: Request) -> Response:
        """The document."""
        head = {"content-security-policy": self._document.policy, "cache-control": "no-store"}
        return Response(self._document.html, media_type="text/html", headers=head)

    async def metrics(self, _: Request) -> Response:
        """For Prometheus."""
        return Response(self._state.metrics(), headers={"content-type": CONTENT_TYPE_LATEST})

    async def frames(self, request: Request) -> Response:
        """Entries of the last frames, a line of JSON each; `?after=N`: of those after frame N."""
        text = request.query_params.get("after", "-1")
        try:
            after = int(text)
        except ValueError:
            return PlainTextResponse("after: need the number of a frame\n", 400)
        self._state.drain()
        lines = (msgspec.json.encode(e) for e in self._state.recent if e["frame"] > after)
        return Response(b"".join(line + b"\n" for line in lines), media_type="application/jsonl")

    async def events(self, _: Request) -> Response:
        """The state, several times a second, as server-sent events."""
        return StreamingResponse(
            self._stream(), media_type="text/event-stream", headers={"cache-control": "no-store"}
        )

    async def _stream(self) -> AsyncIterator[bytes]:
        self._viewers += 1
        try:
            self._state.watch.want()
            ended = self._ended
            yield _event(self._state.snapshot(ended))
            while not ended:
                if not self._ended:
                    await self._turned.wait()
                ended = self._ended
                yield self._shown
        finally:
            self._viewers -= 1

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        turns = asyncio.create_task(self._turns())
        try:
            yield
        finally:
            turns.cancel()

    async def _turns(self) -> None:
        while not self._ended:
            await asyncio.sleep(PERIOD)
            try:
                self._turn(self._ended)
            except Exception:
                _LOG.exception("the live page has failed; the run goes on")
                return

    def _turn(self, ended: bool) -> None:
        """What nobody looks at is counted, but not drawn."""
        self._ended = ended
        if self._viewers:
            self._shown = _event(self._state.snapshot(ended))
            self._state.watch.want()
        else:
            self._state.drain()
        self._turned.set()
        self._turned = asyncio.Event()
        # The stream has turned collections off; this one looks at what is new since the last.
        gc.collect(0)


def _event(snapshot: dict[str, object]) -> bytes:
    return b"data: " + msgspec.json.encode(snapshot) + b"\n\n"
