"""How requests ended, counted: each in exactly one way."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from benchmarks.serving.exchange import Reply
from benchmarks.serving.questions import Answer, read

_TOLD = (408, 429, 503)
_SHOWN = 20
"""Requests that were lost or wrong, of which all is kept."""


@dataclass
class Counts:
    """`told` by kind; `faults` are the first that were lost or wrong, with what came."""

    right: int = 0
    left: int = 0
    lost: int = 0
    wrong: int = 0
    told: dict[str, int] = field(default_factory=dict)
    faults: list[dict[str, Any]] = field(default_factory=list)

    def ended(self, kind: str, about: dict[str, Any]) -> None:
        """A request ended: `right`, `left`, `lost`, `wrong`, or else it was told so."""
        if kind not in ("right", "left", "lost", "wrong"):
            self.told[kind] = self.told.get(kind, 0) + 1
            return
        setattr(self, kind, getattr(self, kind) + 1)
        if kind in ("lost", "wrong") and len(self.faults) < _SHOWN:
            self.faults.append({"kind": kind, **about})

    @property
    def total(self) -> int:
        """Requests."""
        return self.right + self.left + self.lost + self.wrong + sum(self.told.values())


def verdict(reply: Reply, expected: Answer, stream: bool) -> str:
    """How a request ended: `left` where its client did.

    Told: an error's status with a message, 429 with Retry-After, or an event of a stream. Lost:
    nothing came, or less than HTTP or the stream said there would be. Anything else is wrong.
    """
    if reply.left:
        return "left"
    if not reply.whole or not reply.body:
        return "lost"
    try:
        events = reply.events
        if reply.status != 200:
            told = reply.status in _TOLD and events[0]["error"]["message"]
            if reply.status == 429:
                told = told and int(reply.headers["retry-after"]) >= 1
            return str(reply.status) if told else "wrong"
        if stream and not reply.done:
            return "lost"
        if "error" in events[-1]:
            return "event" if stream and events[-1]["error"]["message"] else "wrong"
        return "right" if read(events) == expected else "wrong"
    except (LookupError, TypeError, ValueError):
        return "wrong"


def shown(reply: Reply) -> dict[str, Any]:
    """What came, for a person to read."""
    body = reply.body.decode(errors="replace")
    return {"status": reply.status, "whole": reply.whole, "headers": json.dumps(reply.headers),
            "body": body if len(body) < 3000 else body[:1500] + " ... " + body[-1500:]}  # fmt: skip
