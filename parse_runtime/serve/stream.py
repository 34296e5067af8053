"""Text of an answer from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from parse_runtime.engine.outcome import Outcome
from parse_runtime.engine.request import Statistics


@dataclass(eq=False)
class Stream(Outcome):
    """An answer of the running event loop; iterate over it once for its pieces of text."""

    count: Callable[[Outcome], None] = lambda outcome: None
    """Called in the engine's thread once the answer has ended, in whatever way."""
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    pieces: asyncio.Queue[str | None] = field(default_factory=asyncio.Queue)

    def __post_init__(self) -> None:
        self.show = self._put

    def finished(self, reason: str, statistics: Statistics) -> None:
        super().finished(reason, statistics)
        self.count(self)
        self._put(None)

    def failed(self, error: Exception) -> None:
        super().failed(error)
        self.count(self)
        self._put(None)

    async def __aiter__(self) -> AsyncIterator[str]:
        ended = False
        while not ended:
            pieces = [await self.pieces.get()]
            while not self.pieces.empty():
                pieces.append(self.pieces.get_nowait())
            ended = pieces[-1] is None
            if text := "".join(piece for piece in pieces if piece):
                yield text
        if self.error is not None:
            raise self.error

    def _put(self, piece: str | None) -> None:
        # A server that is stopped twice does not wait for its answers.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.pieces.put_nowait, piece)
