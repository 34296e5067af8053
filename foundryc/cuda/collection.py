"""Python's garbage collector beside a capture."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_set_aside = False
"""Whether what was there before the first body has been."""


@contextmanager
def collected() -> Iterator[None]:
    """Garbage is collected before the body, and not while it runs.

    When a collection comes depends on all that a process has done, such as whether it compiled a
    kernel or found it in a cache. Memory that one frees would be given out again in another order,
    and captures could not be compared. What is there before the first body is not looked at again
    until `done`: there are many of those objects and, with torch, many bodies.
    """
    global _set_aside
    was_enabled = gc.isenabled()
    gc.collect()
    if not _set_aside:
        gc.freeze()
        _set_aside = True
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def done() -> None:
    """No body follows: garbage is looked for everywhere again."""
    global _set_aside
    gc.unfreeze()
    _set_aside = False
