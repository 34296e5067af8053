"""Text of answers from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from parse_runtime.engine.engine import Engine
from parse_runtime.engine.outcome import Outcome
from parse_runtime.engine.request import Request, Statistics
from parse_runtime.sampling.sampler import TokenLogprobs
from parse_runtime.text.stopping import StopText


@dataclass(eq=False, kw_only=True)
class StreamedOutcome(Outcome):
    """One of the answers to an HTTP request."""

    index: int
    ended: Callable[[StreamedOutcome], None]
    """Called in the engine's thread once the answer has ended, in whatever way."""
    listed: int = 0
    """Entries of `logprobs` that were handed on."""

    def fresh(self) -> list[TokenLogprobs]:
        """Log probabilities of the tokens since the last call; in the engine's thread."""
        begin, self.listed = self.listed, len(self.logprobs)
        return self.logprobs[begin:]

    def finished(self, reason: str, statistics: Statistics) -> None:
        super().finished(reason, statistics)
        self.ended(self)

    def failed(self, error: Exception) -> None:
        super().failed(error)
        self.ended(self)


class Part(NamedTuple):
    """Text that came at once, and the log probabilities of the tokens since the part before."""

    outcome: StreamedOutcome
    text: str = ""
    logprobs: Sequence[TokenLogprobs] = ()
    last: bool = False
    """The answer has come to its end."""

    def joined(self, other: Part) -> Part:
        """With another, which came after it."""
        logprobs = [*self.logprobs, *other.logprobs]
        return Part(self.outcome, self.text + other.text, logprobs)


@dataclass(frozen=True)
class _Deliver:
    """Brings parts to the event loop; a server that is stopped twice has none any more."""

    loop: asyncio.AbstractEventLoop

    def __call__(self, parts: Sequence[tuple[Answers, Part]]) -> None:
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._deliver, parts)

    @staticmethod
    def _deliver(parts: Sequence[tuple[Answers, Part]]) -> None:
        for answers, part in parts:
            answers.take(part)


class Answers:
    """All answers to one HTTP request, of the running event loop; iterate once for their texts.

    `direct` may take a part out of the iteration, by returning true, while nothing before it is
    on its way: it is not called for the last part of an answer.
    """

    def __init__(
        self,
        engine: Engine,
        requests: Sequence[Request],
        text: Callable[[], StopText],
        count: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        """`count` is called in the engine's thread with each answer that has ended."""
        self.direct: Callable[[Part], bool] = lambda part: False
        self._engine, self._deliver = engine, _Deliver(asyncio.get_running_loop())
        self._said: asyncio.Queue[Part | Exception] = asyncio.Queue()
        self._idle = False
        """All parts so far have been dealt with."""
        self._count = count
        self.outcomes = [
            self._outcome(index, request, text()) for index, request in enumerate(requests)
        ]

    def abandon(self, error: Exception) -> None:
        """End the iteration with `error`, without waiting for the engine; of the event loop."""
        self._said.put_nowait(error)

    def take(self, part: Part) -> None:
        """A part has come; of the event loop."""
        try:
            if self._idle and self._said.empty() and not part.last and self.direct(part):
                return
        except Exception as error:
            self.abandon(error)
        else:
            self._said.put_nowait(part)

    async def __aiter__(self) -> AsyncIterator[Part]:
        """Parts of the texts; the last of each answer has none.

        Raises what ended an answer that failed.
        """
        left = len(self.outcomes)
        while left:
            self._idle = True
            said = [await self._said.get()]
            self._idle = False
            while not self._said.empty():
                said.append(self._said.get_nowait())
            parts: dict[StreamedOutcome, Part] = {}
            ends: list[Part] = []
            error: Exception | None = None
            for part in said:
                if isinstance(part, Exception):
                    error = part
                elif part.last:
                    ends.append(part)
                    error = error or part.outcome.error
                else:
                    before = parts.get(part.outcome)
                    parts[part.outcome] = before.joined(part) if before else part
            for part in parts.values():
                yield part
            if error is not None:
                raise error
            for part in ends:
                yield part
            left -= len(ends)

    def _outcome(self, index: int, request: Request, text: StopText) -> StreamedOutcome:
        outcome = StreamedOutcome(request, text, index=index, ended=self._ended)
        outcome.show = lambda new: self._put(Part(outcome, new, outcome.fresh()))
        return outcome

    def _ended(self, outcome: StreamedOutcome) -> None:
        self._count(outcome)
        self._put(Part(outcome, logprobs=outcome.fresh(), last=True))

    def _put(self, part: Part) -> None:
        self._engine.leave(self._deliver, (self, part))
