"""An answer that runs: where it is, what it asks for next, how it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from parse_runtime.engine.batch import Batch, Chunk
from parse_runtime.engine.packing import VERIFY, Due
from parse_runtime.engine.protocols import Target, Verification
from parse_runtime.engine.request import Request
from parse_runtime.engine.sequence import Answer, Call, Calls, Decode, Extend, Prefill
from parse_runtime.signature.sizes import SharedSize

BatchPass = Callable[[Batch], Sequence[object]]
"""Answers each sequence of a batch."""


@dataclass(eq=False)
class Running:
    """An answer that has a slot, and the pass that it asks for."""

    slot: int
    answer: Answer
    calls: Calls
    call: Call | None = None
    due_since: float = 0.0
    """When it began to wait for a prefill or a verification (time.monotonic, seconds)."""
    done: int = 0
    """Tokens of its prefill that its slot holds already."""
    shared: Sequence[SharedSize] = ()
    """Passes of several drafts that its verification may be in."""

    @property
    def request(self) -> Request:
        return self.answer.request

    @property
    def due(self) -> Due:
        """Its prefill or verification, as far as it is left."""
        if isinstance(self.call, Prefill):
            return Due(self.call.model, len(self.call.tokens) - self.done)
        call = cast(Verification, self.call)
        return Due(VERIFY, call.rows, self.shared)

    def note_shared(self, target: Target) -> None:
        """Which passes of several drafts its verification may be in."""
        if isinstance(self.call, Verification):
            self.shared = target.shares(self.call)

    def chunk(self, rows: int) -> Chunk:
        """The next tokens of its prefill."""
        call = cast(Prefill, self.call)
        whole = Chunk(self.slot, call.tokens, call.start, self.request.sampling, call.scored)
        return whole.part(self.done, self.done + rows)


def arrived(running: Running) -> float:
    """When its answer came in: later for younger ones."""
    return running.answer.begun


def batch_of(together: Sequence[Running], ahead: bool = False) -> Batch:
    """The batch of those that ask for a step of one kind."""
    calls = cast(list[Decode | Extend], [running.call for running in together])
    scored = frozenset(
        running.slot
        for running, call in zip(together, calls, strict=True)
        if isinstance(call, Extend) and call.scored
    )
    return Batch(
        [running.slot for running in together],
        [call.token for call in calls],
        [call.position for call in calls],
        [running.request.sampling for running in together],
        scored,
        ahead,
    )


def wanted_of(due: Iterable[Running]) -> dict[int, Verification]:
    """The verifications that they ask for, by slot."""
    return {running.slot: cast(Verification, running.call) for running in due}


def behind(together: Sequence[Running], batch: Batch, results: Sequence[object]) -> Batch:
    """The step behind the batch, of those that are to go on whatever was found.

    Those without a result are to be asked for again.
    """
    found = [tokens[-1] if isinstance(tokens, list) else None for tokens in results]
    last = [call.last for call in cast(list[Extend], [running.call for running in together])]
    following = batch.followed_by(found)
    if not any(last):
        return following
    return following.only([i for i, token in enumerate(found) if token is None or not last[i]])


def run_alone(run: BatchPass, running: Running) -> object:
    """What a pass gives one by itself."""
    return run(batch_of([running]))[0]


def given(result: object) -> object:
    """A result that is there."""
    return result


def report(answer: Answer, reason: str, error: Exception | None = None) -> None:
    """Tell a listener that its answer has ended, or failed."""
    answer.statistics.seconds = time.perf_counter() - answer.begun
    if error is not None:
        answer.listener.failed(error)
        return
    try:
        answer.listener.finished(reason, answer.statistics)
    except Exception as failure:
        answer.listener.failed(failure)
