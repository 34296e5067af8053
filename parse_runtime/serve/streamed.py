"""Text of an answer from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from parse_runtime.engine.outcome import Outcome
from parse_runtime.engine.request import Statistics


@dataclass(eq=False)
class StreamedOutcome(Outcome):
    """An answer of the running event loop; iterate over it once for its text."""

    count: Callable[[Outcome], None] = lambda outcome: None
    """Called in the engine's thread once the answer has ended, in whatever way."""
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    texts: asyncio.Queue[str | None] = field(default_factory=asyncio.Queue)

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
            texts = [await self.texts.get()]
            while not self.texts.empty():
                texts.append(self.texts.get_nowait())
            ended = texts[-1] is None
            if joined := "".join(text for text in texts if text):
                yield joined
        if self.error is not None:
            raise self.error

    def _put(self, text: str | None) -> None:
        # A server that is stopped twice does not wait for its answers.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.texts.put_nowait, text)
