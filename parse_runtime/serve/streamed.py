"""Text of answers from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from parse_runtime.engine.outcome import Outcome
from parse_runtime.engine.request import Request, Statistics
from parse_runtime.text.stopping import StopText


@dataclass(eq=False, kw_only=True)
class StreamedOutcome(Outcome):
    """One of the answers to an HTTP request."""

    index: int
    ended: Callable[[StreamedOutcome], None]
    """Called in the engine's thread once the answer has ended, in whatever way."""

    def finished(self, reason: str, statistics: Statistics) -> None:
        super().finished(reason, statistics)
        self.ended(self)

    def failed(self, error: Exception) -> None:
        super().failed(error)
        self.ended(self)


class Answers:
    """All answers to one HTTP request, of the running event loop; iterate once for their texts."""

    def __init__(
        self,
        requests: Sequence[Request],
        text: Callable[[], StopText],
        count: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        """`count` is called in the engine's thread with each answer that has ended."""
        self._loop = asyncio.get_running_loop()
        self._said: asyncio.Queue[tuple[StreamedOutcome, str | None] | Exception] = asyncio.Queue()
        self._count = count
        self.outcomes = [
            self._outcome(index, request, text()) for index, request in enumerate(requests)
        ]

    def abandon(self, error: Exception) -> None:
        """End the iteration with `error`, without waiting for the engine; of the event loop."""
        self._said.put_nowait(error)

    async def __aiter__(self) -> AsyncIterator[tuple[StreamedOutcome, str]]:
        """Parts of the texts; "" where an answer has come to its end.

        Raises what ended an answer that failed.
        """
        left = len(self.outcomes)
        while left:
            said = [await self._said.get()]
            while not self._said.empty():
                said.append(self._said.get_nowait())
            parts: dict[StreamedOutcome, str] = {}
            ends: list[StreamedOutcome] = []
            error: Exception | None = None
            for event in said:
                if isinstance(event, Exception):
                    error = event
                    continue
                outcome, text = event
                if text is None:
                    ends.append(outcome)
                    error = error or outcome.error
                else:
                    parts[outcome] = parts.get(outcome, "") + text
            for outcome, text in parts.items():
                yield outcome, text
            if error is not None:
                raise error
            for outcome in ends:
                yield outcome, ""
            left -= len(ends)

    def _outcome(self, index: int, request: Request, text: StopText) -> StreamedOutcome:
        outcome = StreamedOutcome(request, text, index=index, ended=self._ended)
        outcome.show = lambda part: self._put((outcome, part))
        return outcome

    def _ended(self, outcome: StreamedOutcome) -> None:
        self._count(outcome)
        self._put((outcome, None))

    def _put(self, event: tuple[StreamedOutcome, str | None]) -> None:
        # A server that is stopped twice does not wait for its answers.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._said.put_nowait, event)
