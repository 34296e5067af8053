"""The process around the application: socket, engine, signals."""

from __future__ import annotations

import asyncio
import signal
import socket
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from foundryrt.console import note, printable
from foundryrt.errors import UsageError
from parse_runtime.engine.engine import Engine
from parse_runtime.engine.scheduler import Scheduler
from parse_runtime.graphs.loading import load
from parse_runtime.graphs.session import BundleSession
from parse_runtime.serve import Serving
from parse_runtime.serve.app import Service
from parse_runtime.serve.metrics import Metrics

_LAST_WORDS = 5
"""Seconds for clients to read how their answers ended."""


class Server(uvicorn.Server):
    """Once told to stop, gives answers the seconds of grace, then ends them with an error.

    A second signal ends the grace.
    """

    def __init__(self, app: Starlette, engine: Engine, grace: int) -> None:
        timeout = grace + _LAST_WORDS
        super().__init__(
            uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=timeout)
        )
        self._engine, self._grace = engine, grace
        self._hurried = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and not self._hurried:
            self._hurried = True
            self._engine.abort()
        else:
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().call_later(self._grace, self._engine.abort)
        await super().shutdown(sockets)


def run(session: BundleSession, options: Serving) -> None:
    """Listen and answer; UsageError where the address cannot be had."""
    loaded = load(session, options.unlike_tokenizers)
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        listening = socket.create_server((options.host, options.port), family=family)
    except OSError as error:
        raise UsageError(f"{options.host} port {options.port}: {error.strerror}") from None
    engine = Engine(Scheduler(loaded.target, loaded.draft, options.single_passes), options.queue)
    name = options.name or str(session.settings["model"]).rstrip("/").rpartition("/")[2]
    service = Service(name, engine, loaded.prompts, loaded.rules, session, Metrics(engine))
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if family == socket.AF_INET6 else host
    note(f"{printable(name)}: listening on http://{shown}:{port}/v1")
    # The server stops at these by itself, and raises them again when it is done.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    try:
        Server(service.app(), engine, options.grace).run(sockets=[listening])
    finally:
        engine.abort()
        engine.close()
