"""The process around the application: socket, engine, signals."""

from __future__ import annotations

import signal
import socket
import sys
from typing import Any

import uvicorn

from foundryrt.errors import UsageError
from parse_runtime.engine import Engine
from parse_runtime.loading import load
from parse_runtime.scheduler import Scheduler
from parse_runtime.serve import Serving
from parse_runtime.serve.app import Service
from parse_runtime.serve.metrics import Metrics


def run(session: Any, options: Serving) -> None:
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
    config = uvicorn.Config(
        service.app(), log_level="warning", timeout_graceful_shutdown=options.grace
    )
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if family == socket.AF_INET6 else host
    print(f"{name}: listening on http://{shown}:{port}/v1", file=sys.stderr, flush=True)
    # The server stops at these by itself, and raises them again when it is done.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        engine.close()
