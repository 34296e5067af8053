"""Graph tables, which some threads unpack for the one that reads them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from foundryrt.bundle.tables import TemplateTable
from foundryrt.errors import FoundryError
from foundryrt.parallel import WORKERS, Worker
from foundryrt.undo import Undo

_THREADS = 3
"""More, and the reader is waited for: it has work of its own with each table."""


class Ahead:
    """Tables by their numbers, each of which `unpack` reads."""

    def __init__(self, unpack: Callable[[int], TemplateTable]) -> None:
        self._unpack = unpack
        self._there: dict[int, TemplateTable] = {}
        self._taken: set[int] = set()

    def take(self, index: int) -> TemplateTable:
        """A table, once; unpacked here where no thread has done it, with the errors of that."""
        self._taken.add(index)
        table = self._there.pop(index, None)
        return self._unpack(index) if table is None else table

    @contextmanager
    def unpacking(self, order: Iterable[int]) -> Iterator[None]:
        """Have threads unpack these, the last first, while they are taken in their order."""
        left = deque(dict.fromkeys(order))
        with Undo() as undo:
            for _ in range(min(_THREADS, WORKERS - 1)):
                worker = Worker()
                undo.push(worker.join)
                with suppress(RuntimeError):  # the system gives no thread: the reader does it all
                    worker.start(partial(self._work, left))
            undo.push(left.clear)
            yield

    def _work(self, left: deque[int]) -> None:
        # Nothing is left, or what the reader will meet, too.
        with suppress(IndexError, FoundryError):
            while (index := left.pop()) not in self._taken:
                self._there[index] = self._unpack(index)
