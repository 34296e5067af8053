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
    texts: asyncio.Queue[str | Exception | None] = field(default_factory=asyncio.Queue)

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

    def abandon(self, error: Exception) -> None:
        """End the iteration with `error`, without waiting for the engine; of the event loop."""
        self.texts.put_nowait(error)

    async def __aiter__(self) -> AsyncIterator[str]:
        end: list[Exception | None] = []
        while not end:
            texts = [await self.texts.get()]
            while not self.texts.empty():
                texts.append(self.texts.get_nowait())
            end = [text for text in texts if not isinstance(text, str)]
            if joined := "".join(text for text in texts if isinstance(text, str)):
                yield joined
        error = end[0] or self.error
        if error is not None:
            raise error

    def _put(self, text: str | None) -> None:
        # A server that is stopped twice does not wait for its answers.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.texts.put_nowait, text)
