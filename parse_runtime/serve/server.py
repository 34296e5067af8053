"""The process around the application: socket, engine, signals."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from foundryrt.admin import Token, make_token
from foundryrt.console import note, printable
from foundryrt.errors import FoundryError, UsageError
from foundryrt.session import Session
from foundryrt.timeline import mark
from parse_runtime.graphs.loading import Loaded, load
from parse_runtime.serve import Serving
from parse_runtime.serve.app import Service
from parse_runtime.serve.connection import BACKLOG, Limits, connection_type, connections_allowed
from parse_runtime.serve.served import served
from parse_runtime.serve.switching import Switching

_LAST_WORDS = 5
"""Seconds for clients to read how their answers ended."""
_TO_STOP = 2
"""Seconds that threads have to stop, at least; a process whose threads do not stop is ended."""
_TURNS = 3
"""Of the event loop, until a connection that it has accepted is there."""


class Server(uvicorn.Server):
    """Once told to stop, gives answers the seconds of grace, then ends them with an error.

    A second signal ends the grace. `told`: it is to stop as soon as it has started.
    """

    def __init__(
        self, service: Service, app: Starlette, grace: int, limits: Limits, told: threading.Event
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=connection_type(limits),
                ws="none",
                lifespan="off",
                # Below it are clients' faults, a line for each.
                log_level="error",
                backlog=BACKLOG,
            )
        )
        self._service, self._grace, self._told = service, grace, told
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hurried = self._aborted = False
        self._end = 0.0

    @property
    def seconds_left(self) -> float:
        """Until the process is to have ended."""
        return max(0.0, self._end - time.monotonic())

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and not self._hurried:
            self._hurried = True
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._abort)
        else:
            super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.should_exit |= self._told.is_set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        grace = 0 if self._hurried else self._grace
        self._end = time.monotonic() + grace + _LAST_WORDS
        self._loop.call_later(grace, self._abort)
        await self._stop_listening(sockets or [])
        # Of all answers that have not begun; it closes connections once they are sent.
        self.server_state.default_headers.append((b"connection", b"close"))
        await super().shutdown(sockets)

    async def _stop_listening(self, sockets: list[socket.socket]) -> None:
        """Take in the clients whose connections stand: the system resets those that are left."""
        loop = asyncio.get_running_loop()
        for listening in sockets:
            loop.remove_reader(listening)
        # What asyncio has accepted is made a connection in the turns that follow, or dropped.
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        accepted = []
        for listening in sockets:
            # BlockingIOError, where there is no more.
            with suppress(OSError):
                while True:
                    accepted.append(listening.accept()[0])
        for server in self.servers:
            server.close()
        for client in accepted:
            client.setblocking(False)
            await loop.connect_accepted_socket(self._connection, client)

    def _connection(self) -> asyncio.Protocol:
        config, state = self.config, self.server_state
        return config.http_protocol_class(  # type: ignore[call-arg]
            config=config, server_state=state, app_state=self.lifespan.state
        )

    def _abort(self) -> None:
        if not self._aborted:
            self._aborted = True
            self._end = time.monotonic() + _LAST_WORDS
            self._service.abort()
            asyncio.get_running_loop().call_later(_LAST_WORDS, self._cut)

    def _cut(self) -> None:
        """Close the connections of clients that do not read."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def run(session: Session, options: Serving) -> None:
    """Listen and answer; UsageError where the address cannot be had."""
    loaded = load(session, options.unlike_tokenizers)
    mark("models")
    listening = listen(options)
    service = service_of(session, loaded, options)
    try:
        answer(service, listening, options)
        service.check()
    finally:
        # Where there was a switch, not the one that was given.
        service.served.session.close()


def service_of(session: Session, loaded: Loaded, options: Serving) -> Service:
    """The application of an open bundle, its engine running."""
    return Service(served(session, loaded, options))


def listen(options: Serving) -> socket.socket:
    """UsageError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        listening = socket.create_server((options.host, options.port), family=family)
    except OSError as error:
        # Python's own text has the address again.
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise UsageError(
            f"{options.host} port {options.port}: {why}; choose others, --host and --port"
        ) from None
    # Connections inherit it. Without it each small part of a stream waits for the client to
    # acknowledge the one before, up to 40 ms; asyncio sees to that for sockets of its own alone.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def answer(service: Service, listening: socket.socket, options: Serving) -> None:
    """Answer until SIGTERM or SIGINT; the service's engines are closed at the end."""
    host, port = listening.getsockname()[:2]
    # The server takes these while it runs, and raises them again when it is done.
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    token = _token(port)
    shown = f"[{host}]" if listening.family == socket.AF_INET6 else host
    note(f"{printable(service.served.name)}: listening on http://{shown}:{port}/v1")
    connections = connections_allowed(options.connections)
    if connections < options.connections:
        note(f"at most {connections} connections at a time: the process may not open more files")
    preparing = threading.Thread(target=service.prepare, name="parse-prepare", daemon=True)
    preparing.start()
    switching = Switching(service, options, token.text)
    limits = Limits(connections, options.client_timeout)
    server = Server(service, service.app([switching.route]), options.grace, limits, told)
    mark("listening")
    # What is there stays: a full collection would look through it and hold all answers up.
    gc.freeze()
    try:
        server.run(sockets=[listening])
    finally:
        token.close()
        service.stop()
        for engine in list(service.engines):
            engine.close(max(_TO_STOP, server.seconds_left))
        preparing.join(max(_TO_STOP, server.seconds_left))
        ended = switching.join(max(_TO_STOP, server.seconds_left))
    if any(engine.working for engine in service.engines) or preparing.is_alive() or not ended:
        # None can be stopped, and what they read and write must not be freed below them.
        os._exit(_exit_code(service))


def _exit_code(service: Service) -> int:
    """1 where the session has lost a rank, or was closed and nothing could be opened."""
    try:
        service.check()
    except FoundryError:
        return 1
    return 0


def _token(port: int) -> Token:
    """The server's; an empty one, which nobody can show, where its file cannot be made."""
    try:
        return make_token(port)
    except UsageError:
        raise
    except FoundryError as error:
        note(f"warning: no orders are taken (foundryrt switch): {error}")
        return Token("")
