"""What a long command is doing, as one line on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console


@contextmanager
def status(text: str) -> Iterator[Callable[[str], None]]:
    """A spinner with `text`; the function given changes the text. Silent in a log file."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status(text) as shown:
        yield shown.update
