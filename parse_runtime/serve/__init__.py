"""`foundryrt serve` of a parse bundle: an OpenAI-compatible HTTP endpoint (docs/parse.md)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from foundryrt.errors import FoundryError, UsageError, install


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Where to listen, and how much to take."""

    host: str = field(default="127.0.0.1", metadata=_help("address to listen on"))
    port: int = field(default=8000, metadata=_help("0: any free one"))
    name: str = field(default="", metadata=_help("the model's name; by default its own folder's"))
    queue: int = field(default=64, metadata=_help("requests that may wait for a slot, then 429"))
    single_passes: int = field(
        default=2, metadata=_help("prefills and verifications between two decode batches")
    )
    grace: int = field(default=30, metadata=_help("seconds to finish requests after SIGTERM"))
    unlike_tokenizers: str = field(
        default="retokenize", metadata=_help("or refuse a pair whose tokenizers differ")
    )

    def __post_init__(self) -> None:
        if not self.host:
            # To the system an empty name is every address of the machine.
            raise UsageError("host: an address is needed; 0.0.0.0 for all of this machine")
        if not 0 <= self.port < 1 << 16:
            raise UsageError(f"port {self.port}: 0 to 65535")
        for name, least in (("queue", 0), ("single_passes", 1), ("grace", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name.replace('_', '-')}: at least {least} is needed")


def serve(session: Any, options: Serving) -> None:
    """Serve until SIGTERM or SIGINT, then finish what runs."""
    try:
        from parse_runtime.serve.server import run
    except ImportError as error:
        raise FoundryError(
            f"serving needs {error.name}, which is not installed: {install('serve')}"
        ) from error
    run(session, options)
