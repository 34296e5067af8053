"""A bar of one line on stderr; silent where that is no terminal, and cheap between two frames."""

from __future__ import annotations

import sys
import time

_EVERY = 0.2  # seconds
_WIDTH = 30


class Bar:
    """`what` is the verb in front; `total` 0 where nobody knows how many there will be."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._shown = sys.stderr.isatty()
        self._next = 0.0
        self._done = 0

    def advance(self) -> None:
        """One more is done."""
        self.update(self._done + 1)

    def update(self, done: int, note: str = "") -> None:
        """Show that `done` are done, unless it was shown just now."""
        self._done = done
        now = time.monotonic()
        if not self._shown or now < self._next:
            return
        self._next = now + _EVERY
        full = _WIDTH * min(done, self._total) // self._total if self._total else 0
        bar = f"[{'#' * full}{'.' * (_WIDTH - full)}] " if self._total else ""
        of = f"/{self._total}" if self._total else ""
        sys.stderr.write(f"\r\x1b[K{self._what} {bar}{done}{of} {note}")
        sys.stderr.flush()

    def close(self) -> None:
        """Clear the line."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
