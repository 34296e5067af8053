"""Continuous batching: the passes that many answers ask for, together, over slots of the caches."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast

from foundryrt.errors import UsageError
from parse_runtime.engine.batch import Batch
from parse_runtime.engine.memory import SHARING, Memory
from parse_runtime.engine.packing import VERIFY
from parse_runtime.engine.planned import Launched, Planned
from parse_runtime.engine.protocols import Decoder, Target, Verification
from parse_runtime.engine.putting_off import put_off
from parse_runtime.engine.request import Listener, Request
from parse_runtime.engine.running import (
    BatchPass,
    Running,
    arrived,
    batch_of,
    behind,
    given,
    report,
    run_alone,
    wanted_of,
)
from parse_runtime.engine.sequence import Answer, Call, Decode, Extend, Prefill


class Scheduler:
    """Runs answers in steps; of one thread. A slot is the same of target and draft.

    What an answer becomes depends on nothing but its request: only times differ with what else
    runs. Where blocks of the caches run out, answers wait before they begin, and one that needs a
    block takes those of the youngest, which goes on later. An error ends the one request whose pass
    it came from. What a listener's `failed` raises comes out of `step` or `cancel`; the other
    answers can still go on then.
    """

    def __init__(
        self, target: Target, draft: Decoder, prefill_rows: int = 0, sharing: str = SHARING[0]
    ) -> None:
        """`prefill_rows`: rows of prefills and verifications a step, which all others wait for.

        0 leaves it to what waits (`packing.room_for`). `sharing` is that of `Memory`.
        """
        if prefill_rows < 0:
            raise UsageError(f"prefill-rows {prefill_rows}: at least 0 is needed")
        self._target, self._draft, self._prefill_rows = target, draft, prefill_rows
        self.slots = min(target.slots, draft.slots)
        self.max_len = target.max_len
        self.memory = Memory(target, draft, sharing)
        self._free = list(range(self.slots))
        self._waiting: deque[Answer] = deque()
        self._running: dict[Listener, Running] = {}
        self._due: deque[Running] = deque()
        """Those whose next pass is a prefill or a verification, longest waiting first."""
        self._launched: Launched | None = None
        """Of this step, where its first pass is a prefill that runs already."""
        self.failed = 0
        """Answers that failed in a row; those of unfit requests (UsageError) do not count."""
        self.told: Callable[[], object] = lambda: None
        """Called once the answers of a pass have been told what it gave them, in the same step or,
        where that has more to do, the next."""

    @property
    def running(self) -> int:
        """Answers that have a slot."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Answers that wait for one, in the order of their submission."""
        return len(self._waiting)

    @property
    def listeners(self) -> list[Listener]:
        """Of all answers that have not ended."""
        return [*self._running, *(answer.listener for answer in self._waiting)]

    def replace(self, target: Target, draft: Decoder) -> None:
        """Go on with other models, whose caches hold what those of the present ones do."""
        assert min(target.slots, draft.slots) == self.slots and target.max_len == self.max_len
        self._target, self._draft = target, draft
        self.memory.replace(target, draft)
        for running in self._due:
            running.note_shared(target)

    def submit(self, request: Request, listener: Listener) -> None:
        """Queue an answer; UsageError where it does not fit the caches."""
        request.check(self.max_len)
        self._waiting.append(Answer(request, listener, self._draft.max_len))

    def cancel(self, listener: Listener, error: Exception | None = None) -> None:
        """End the listener's answer and free its slot; nothing happens where it ended already.

        It ends as cancelled, or as failed with `error`.
        """
        if running := self._running.get(listener):
            running.calls.close()
            self._release(running)
            report(running.answer, "cancelled", error)
        for answer in [one for one in self._waiting if one.listener is listener]:
            self._waiting.remove(answer)
            report(answer, "cancelled", error)

    def step(self) -> bool:
        """One batch of drafting, one of resuming, some rows of prefills and verifications.

        False where nothing is left to do.
        """
        while self._free and self._waiting and self._may_begin(self._waiting[0]):
            self._admit(self._waiting.popleft())
        self._launched = None
        self._batch(Decode, self._draft.decode)
        if not self._launched:
            self._batch(Extend, self._target.extend)
        self.told()
        launched, self._launched = self._launched, None
        if launched:
            self._prefill(launched.kind, launched.shares, launched)
            # Else the next step comes now: its tokens are there, and it is launched first.
            if not launched.mixed or launched.others.passes:
                self.told()
        planned = launched.others if launched else self._planned()
        for one in planned.passes:
            # Some of them may have failed in a pass before, or give way now.
            shares = {r: rows for r, rows in planned.shares(one).items() if r in self._due}
            others = len(self._running) > len(self._due)
            if shares and others and put_off(one.kind, shares, self._target, self._draft):
                continue
            there = self._make_room(list(shares))
            if one.kind == VERIFY:
                self._verify(there)
            elif there:
                self._prefill(one.kind, {running: shares[running] for running in there})
            self.told()
        return bool(self._running or self._waiting)

    def _may_begin(self, answer: Answer) -> bool:
        drafts = answer.drafts or self._target.proposes > 0
        return self.memory.admits(answer.tokens, drafts * answer.drafted, len(self._running))

    def _admit(self, answer: Answer) -> None:
        if not answer.statistics.queue_seconds:
            answer.statistics.queue_seconds = time.perf_counter() - answer.begun
        running = Running(self._free.pop(0), answer, answer.calls())
        self._running[answer.listener] = running
        self._guarded(running, lambda: None)
        if self._make_room([running]):
            # Else its first step would ask for blocks, and find out what all others have.
            self.memory.reserve_ahead([(running.slot, cast(Call, running.call))], self.running)

    def _make_room(self, asking: Sequence[Running]) -> list[Running]:
        """Those that have blocks for what they ask for; the oldest get them first."""
        for running in sorted(asking, key=arrived):
            while self._runs(running) and not self.memory.reserve(
                running.slot, cast(Call, running.call)
            ):
                self._preempt(max(self._running.values(), key=arrived))
        return [running for running in asking if self._runs(running)]

    def _preempt(self, running: Running) -> None:
        """Its blocks are free, and it is the next to begin, from the tokens that it has."""
        running.calls.close()
        self._release(running)
        self._waiting.appendleft(running.answer)
        running.answer.statistics.preempted += 1

    def _runs(self, running: Running) -> bool:
        return self._running.get(running.answer.listener) is running

    def _batch(self, kind: type[Decode] | type[Extend], run: BatchPass) -> None:
        """One pass of all that ask for it; one by one where it fails, to find whose error it is."""
        together = [running for running in self._running.values() if isinstance(running.call, kind)]
        steps = cast(
            list[tuple[int, Decode | Extend]],
            [(running.slot, running.call) for running in together],
        )
        if lacking := self.memory.lacking(steps):
            self.memory.reserve_ahead(steps, self.running)
            self._make_room([together[i] for i in lacking])
            together = [running for running in together if self._runs(running)]
        if not together:
            return
        planned = self._planned()
        mixes = kind is Extend and planned.mixes(self._target, together)
        batch = batch_of(together, not mixes and planned.stays(kind, together))
        try:
            results = run(batch)
        except Exception:
            for running in together:
                self._guarded(running, partial(run_alone, run, running))
            return
        if kind is Extend or not any(isinstance(r.call, Extend) for r in self._running.values()):
            self._begin_prefill(planned, behind(together, batch, results) if mixes else None)
        for running, result in zip(together, results, strict=True):
            if result is not None:
                self._guarded(running, partial(given, result))

    def _begin_prefill(self, planned: Planned, beside: Batch | None = None) -> None:
        """Launch the prefill that comes first, for the device to be at work while tokens are told.

        `beside`: in one pass with this step. Not where the host would wait for it, nor where
        somebody would have to give way: a step's results are for all that asked for it.
        """
        if (first := planned.prefill) is None:
            return
        shares, model = planned.shares(first), self._model(first.kind)
        chunks = [running.chunk(rows) for running, rows in shares.items()]
        with contextlib.suppress(Exception):  # it comes again, and is told to whom it concerns
            there = all(self.memory.reserve(r.slot, cast(Call, r.call)) for r in shares)
            if there and beside and self._target.mixes(chunks, len(beside)):
                wait, mixed = self._target.begin_mixed(chunks, beside), True
            elif there and model.overlaps(chunks):
                wait, mixed = model.begin_prefill(chunks), False
            else:
                return
            self._launched = Launched(first.kind, shares, wait, mixed, planned.behind_first())

    def _model(self, name: str) -> Decoder:
        return self._target if name == "target" else self._draft

    def _planned(self) -> Planned:
        running = self._running.values()
        return Planned.of(self._due, running, self._target, self._draft, self._prefill_rows)

    def _prefill(
        self, name: str, shares: Mapping[Running, int], launched: Launched | None = None
    ) -> None:  # fmt: skip
        """One pass over chunks of prompts; one by one where it fails, to find whose error it is."""
        try:
            if launched:
                results = launched.wait()
            else:
                chunks = [running.chunk(rows) for running, rows in shares.items()]
                results = self._model(name).begin_prefill(chunks)()
        except Exception as error:
            alone = len(shares) == 1 and not (launched and launched.mixed)
            for running, rows in shares.items():
                if running in self._due and alone:
                    self._fail(running, error)
                elif running in self._due:
                    self._prefill(name, {running: rows})
            return
        for (running, rows), result in zip(shares.items(), results, strict=True):
            if running not in self._due:
                continue  # it has ended meanwhile
            if rows < running.due.rows:
                running.done += rows
                continue
            running.done = 0
            self._due.remove(running)
            request, call = running.request, cast(Prefill, running.call)
            prompt = request.prompt if name == "target" else request.draft_prompt
            self.memory.publish(running.slot, call, prompt)
            self._guarded(running, partial(given, result))

    def _verify(self, together: Sequence[Running]) -> None:
        """One pass; one by one where it fails, to find whose error it is."""
        wanted = wanted_of(together)
        results: list[Callable[[], object]]
        results = [partial(self._target.verify, *one) for one in wanted.items()]
        if len(together) > 1:
            with contextlib.suppress(Exception):
                results = [partial(given, one) for one in self._target.verify_pass(wanted)]
        for running, result in zip(together, results, strict=True):
            if running in self._due:  # else it has ended meanwhile
                self._due.remove(running)
                self._guarded(running, result)

    def _guarded(self, running: Running, result: Callable[[], object]) -> None:
        """Send an answer the result of its pass; note what it asks for next, or its end."""
        try:
            running.call = running.calls.send(result())
        except StopIteration as end:
            self._release(running)
            self.failed = 0
            report(running.answer, end.value)
        except Exception as error:
            self._fail(running, error)
        else:
            if isinstance(running.call, Prefill):
                whole = running.call
                running.call = self.memory.begin(running.slot, whole)
                if not running.answer.statistics.preempted:  # else it finds its own
                    running.answer.statistics.shared += running.call.start - whole.start
            if isinstance(running.call, Prefill | Verification):
                running.note_shared(self._target)
                running.due_since = time.monotonic()
                self._due.append(running)

    def _fail(self, running: Running, error: Exception) -> None:
        running.calls.close()
        self._release(running)
        self.failed += not isinstance(error, UsageError)
        running.answer.listener.failed(error)

    def _release(self, running: Running) -> None:
        del self._running[running.answer.listener]
        self.memory.forget(running.slot)
        self._free.append(running.slot)
        if running in self._due:
            self._due.remove(running)
