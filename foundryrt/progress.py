"""The progress bar of every command: one line on stderr, silent where that is no terminal.

It is drawn by the code that reports progress, at most five times a second, and by no thread: a
receiver in real time reports each frame and must not share its core with a painter.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from foundryrt.printable import printable

_EVERY = 0.2
"""Least seconds between two drawings."""
_WIDTH = 30
_CLEAR = "\r\x1b[K"


class Update(Protocol):
    """Says how many are done; `note` is shown behind the count."""

    def __call__(self, done: int, note: str = "") -> None: ...


@contextmanager
def progress_bar(total: int, what: str) -> Iterator[Update]:
    """A bar named `what` (such as "simulating") while the `with` block runs; gives its `update`.

    `total` is what `done` will reach, 0 where nobody knows. Between two drawings an update costs a
    look at the clock. A new note for the same count is a new phase, and is drawn at once, as is
    the last count.
    """
    global _shown
    if sys.stderr is None or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield _silent
        return
    bar = _Bar(total, what)
    outer, _shown = _shown, bar
    try:
        yield bar.update
    finally:
        _shown = outer
        _put(_CLEAR)


def clear_bar() -> None:
    """Take the bar off its line, for a line of output; the next update draws it again."""
    if _shown is not None:
        _shown.clear()


class _Bar:
    def __init__(self, total: int, what: str) -> None:
        self._total, self._what = total, printable(what)
        self._done, self._note = 0, ""
        self._began = time.monotonic()
        self._next = self._began + _EVERY
        self._draw(self._began)

    def update(self, done: int, note: str = "") -> None:
        phase = done == self._done and note != self._note
        complete = done == self._total != self._done
        self._done, self._note = done, note
        now = time.monotonic()
        if phase or complete or now >= self._next:
            self._next = now + _EVERY
            self._draw(now)

    def clear(self) -> None:
        self._next = 0.0
        _put(_CLEAR)

    def _draw(self, now: float) -> None:
        words = [self._what]
        if self._total:
            full = _WIDTH * min(self._done, self._total) // self._total
            words += [f"[{'#' * full}{'.' * (_WIDTH - full)}]", f"{self._done}/{self._total}"]
        elif self._done:
            words.append(str(self._done))
        words += [printable(self._note)] if self._note else []
        minutes, seconds = divmod(int(now - self._began), 60)
        line = f"{' '.join(words)} ({minutes}:{seconds:02})"
        # A line that wraps could not be cleared.
        _put(_CLEAR + line[: _columns() - 1])


_shown: _Bar | None = None


def _silent(done: int, note: str = "") -> None:
    pass


def _columns() -> int:
    with contextlib.suppress(OSError, ValueError):
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    return 80


def _put(text: str) -> None:
    # What cannot be shown must not end what it is about.
    with contextlib.suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()
