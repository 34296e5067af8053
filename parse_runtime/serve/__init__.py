"""`foundryrt serve` of a parse bundle: an OpenAI-compatible HTTP endpoint (docs/parse.md)."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from foundryrt.bundle.reader import Bundle
from foundryrt.errors import FoundryError, UsageError, install
from foundryrt.options import option
from foundryrt.session import Session
from foundryrt.timeline import mark
from parse_runtime.engine.memory import SHARING, SHARING_OPTION
from parse_runtime.graphs.loading import UNLIKE_OPTION, texts
from parse_runtime.graphs.room import Room


@dataclass(frozen=True, kw_only=True)
class _Server:
    """Where to listen, and for how much."""

    host: str = option("127.0.0.1", "address to listen on")
    port: int = option(8000, "0: any free one")
    name: str = option("", "the model's name; by default its own folder's")
    queue: int = option(64, "requests that may wait for a slot, then 429")
    prefill_rows: int = option(
        0, "rows of prompts and verifications between two decode batches; 0: by how many wait"
    )
    share_prefixes: str = option(*SHARING_OPTION)
    connections: int = option(512, "open at a time; fewer where the process may open few files")
    client_timeout: int = option(30, "seconds for a request to come in, or a client to read on")
    grace: int = option(30, "seconds to finish requests after SIGTERM")
    unlike_tokenizers: str = option(*UNLIKE_OPTION)


@dataclass(frozen=True, kw_only=True)
class Serving(Room, _Server):
    """Where to listen, and how much to take."""

    def __post_init__(self) -> None:
        self.check_room()
        if not self.host:
            # To the system an empty name is every address of the machine.
            raise UsageError("host: an address is needed; 0.0.0.0 for all of this machine")
        if not 0 <= self.port < 1 << 16:
            raise UsageError(f"port {self.port}: 0 to 65535")
        if self.share_prefixes not in SHARING:
            raise UsageError(f"share-prefixes: one of {', '.join(SHARING)}")
        for name, least in (
            ("queue", 0),
            ("prefill_rows", 0),
            ("connections", 1),
            ("client_timeout", 1),
            ("grace", 0),
        ):
            if getattr(self, name) < least:
                raise UsageError(f"{name.replace('_', '-')}: at least {least} is needed")


def prepare_serving(bundle: Bundle) -> object:
    """Import the server and read the tokenizers, tenths of a second each; these are the result."""
    import_module("parse_runtime.serve.server")
    return texts(bundle)


def serve(session: Session, options: Serving) -> None:
    """Serve until SIGTERM or SIGINT, then finish what runs."""
    for step, at in session.timeline:
        mark(step, at)
    try:
        from parse_runtime.serve.server import run
    except ImportError as error:
        raise FoundryError(
            f"serving needs {error.name}, which is not installed: {install('serve')}"
        ) from error
    mark("server")
    run(session, options)
