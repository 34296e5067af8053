"""Python's garbage collector beside a capture."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def postponed() -> Iterator[None]:
    """The body runs without garbage collection, which is due when it ends.

    When a collection comes depends on all that a process has done, such as whether it compiled a
    kernel or found it in a cache. Memory that one frees would be given out again in another order,
    and captures could not be compared.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
