"""A program around the graphs that are recorded in it: where its memory lies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from foundryc.cuda.arena import Arena


class Program:
    """Runs on `stream`, with its memory in the arena, and none of that is given out twice.

    Each stretch of the program, up to a graph, has a pool of its own. A graph may use memory of an
    earlier stretch that the program has freed since: out of a pool that nobody takes from any more
    it is given to nobody else. Nor does the program get what graphs use as their scratch.
    """

    def __init__(self, arena: Arena, stream: torch.cuda.Stream) -> None:
        self._arena = arena
        self._stream = stream
        self.pools: list[torch.cuda.MemPool] = []
        self._stretch = ExitStack()

    def begin(self) -> None:
        """A stretch begins."""
        pool = self._arena.new_pool()
        self.pools.append(pool)
        self._stream.wait_stream(torch.cuda.current_stream())
        self._stretch.enter_context(torch.cuda.stream(self._stream))
        self._stretch.enter_context(torch.cuda.use_mem_pool(pool))

    def end(self) -> None:
        """The stretch ends; what follows comes after its work."""
        self._stretch.close()
        torch.cuda.current_stream().wait_stream(self._stream)

    @contextmanager
    def interrupted(self) -> Iterator[None]:
        """The body, between two stretches, may capture."""
        self.end()
        try:
            yield
        finally:
            self.begin()
