"""Many answers at once: none depends on the others, none waits for ever, errors stay alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundryrt.errors import FoundryError, UsageError
from parse_runtime.engine.batch import Batch, Chunk, Sampling
from parse_runtime.engine.engine import Engine, Overloaded, Stopped
from parse_runtime.engine.protocols import Prefilled, Verdict, Verification
from parse_runtime.engine.request import Request
from parse_runtime.engine.scheduler import Scheduler
from parse_runtime.signature.sizes import PrefillSize, SharedSize
from tests.unit.parse_fakes import PROMPT, Fake, Heard, answered, mixing, request, submitted


def judge(held: list[int]) -> float:
    return hash(tuple(held)) % 100 / 100


SHARED = SharedSize(64, 3, 2), SharedSize(256, 20, 4)


def models(slots: int, several: int = 1, shared: tuple[SharedSize, ...] = ()) -> tuple[Fake, Fake]:
    return Fake(mixing(1), judge, several, slots, shared=shared), Fake(mixing(2), slots=slots)


def alone(chosen: Request) -> Heard:
    return answered(Scheduler(*models(1)), chosen)


requests = st.builds(
    request, st.integers(1, 40), st.lists(st.integers(1, 50), min_size=1, max_size=24),
    st.integers(0, 3), max_rounds=st.integers(0, 3), two_stage=st.booleans(),
    threshold=st.sampled_from([0.0, 0.3, 0.9]), stride=st.integers(1, 9),
    selection=st.sampled_from(["first-failure", "longest-accepted"]),
)  # fmt: skip


@given(
    st.lists(st.tuples(requests, st.integers(0, 12)), min_size=1, max_size=12),
    st.integers(1, 5), st.integers(0, 200), st.integers(1, 4), st.sets(st.integers(0, 11)),
    st.sampled_from([(), SHARED]),
)  # fmt: skip
def test_an_answer_does_not_depend_on_what_else_runs(
    arrivals: list[tuple[Request, int]], slots: int, rows: int, several: int, dropped: set[int],
    shared: tuple[SharedSize, ...],
) -> None:  # fmt: skip
    scheduler = Scheduler(*models(slots, several, shared), rows)
    heard = submitted(scheduler, arrivals, dropped)
    steps = 0
    while scheduler.step():
        steps += 1
        # Each step serves every answer in a batch, or the one that has waited longest.
        assert steps < 2000
    assert scheduler.running == scheduler.waiting == 0
    for (chosen, _), got in zip(arrivals, heard, strict=True):
        got.check(alone(chosen))


@given(st.lists(requests, min_size=1, max_size=6), st.sets(st.integers(0, 60)), st.integers(1, 3))
def test_answers_go_on_with_models_of_the_same_caches(
    asked: list[Request], switches: set[int], slots: int
) -> None:
    now = models(slots, 2)
    scheduler, heard = Scheduler(*now), [Heard() for _ in asked]
    for chosen, listener in zip(asked, heard, strict=True):
        scheduler.submit(chosen, listener)
    step = 0
    while scheduler.step():
        step += 1
        if step in switches:
            # What was replaced may not be asked again.
            old, now = now, models(slots, 2)
            for before, after in zip(old, now, strict=True):
                after.take_over(before)
            scheduler.replace(*now)
    for chosen, got in zip(asked, heard, strict=True):
        expected = alone(chosen)
        assert (got.error, got.said, got.reason) == (None, expected.said, expected.reason)


def test_models_that_cannot_be_had_replace_none() -> None:
    target, draft = models(1)
    engine, heard = Engine(Scheduler(target, draft)), Heard()
    with pytest.raises(FoundryError, match="the device is gone"):
        engine.replace(lambda: throw(FoundryError("the device is gone")))
    engine.submit(request(), heard)
    engine.close(20)
    assert heard.said == alone(request()).said and target.rows
    with pytest.raises(Stopped):
        engine.replace(lambda: (target, draft))


def throw(error: Exception) -> NoReturn:
    raise error


def test_answers_share_passes_and_start_in_their_order() -> None:
    target, draft = models(3)
    scheduler, heard = Scheduler(target, draft), [Heard() for _ in range(7)]
    for i, listener in enumerate(heard):
        scheduler.submit(request(10, [i + 1], max_rounds=0), listener)
    begun: list[int] = []
    while scheduler.step():
        begun += [i for i, h in enumerate(heard) if (h.said or h.done) and i not in begun]
        assert scheduler.running <= 3
    assert begun == sorted(begun) and len(begun) == 7
    assert max(target.batches) == 3


def test_prompts_share_a_pass() -> None:
    target, draft = models(7)
    scheduler, heard = Scheduler(target, draft, 96), [Heard() for _ in range(7)]
    for i, listener in enumerate(heard):
        scheduler.submit(request(10, [i + 1] * 20, max_rounds=0), listener)
    while scheduler.step():
        pass
    assert target.prompts == [[0, 1, 2], [3, 4, 5], [6]]


def test_drafts_that_wait_share_a_pass_up_to_the_budget() -> None:
    for rows, expected in ((0, [[0, 1, 2, 3]]), (256, [[0, 1, 2, 3]]), (128, [[0, 1], [2, 3]])):
        target, draft = models(6, shared=(SharedSize(128, 9, 2), SharedSize(256, 9, 4)))
        draft.say = mixing(2, 997)
        scheduler, heard = Scheduler(target, draft, rows), [Heard() for _ in range(4)]
        target.prefills = draft.prefills = (PrefillSize(256, 6),)
        for i, listener in enumerate(heard):
            scheduler.submit(request(20, [i + 1] * 4), listener)
        while scheduler.step():
            pass
        assert target.judged == expected
        for i, got in enumerate(heard):
            assert got.error is None and got.statistics.verdicts and got.said, i


class Unjudged(Fake):
    """Never judges a draft that begins with 13."""

    def verify(self, slot: int, wanted: Verification) -> Verdict:
        if self.rows[slot][0] == 13:
            raise FoundryError("this one fails")
        return super().verify(slot, wanted)


def test_a_verification_that_fails_beside_others_ends_its_own_request() -> None:
    shared = (SharedSize(128, 9, 4),)
    target = Unjudged(mixing(1), judge, slots=4, shared=shared)
    scheduler = Scheduler(target, models(4)[1], 1024)
    heard = [Heard() for _ in range(4)]
    asked = [request(20, [first] * 4) for first in (11, 13, 12, 14)]
    for chosen, listener in zip(asked, heard, strict=True):
        scheduler.submit(chosen, listener)
    while scheduler.step():
        pass
    assert any(len(together) > 1 and 1 in together for together in target.judged)
    assert str(heard[1].error) == "this one fails"
    for i in (0, 2, 3):
        heard[i].check(alone(asked[i]))


def test_a_verification_may_be_cancelled_by_one_that_shares_its_pass() -> None:
    shared = (SharedSize(128, 9, 4),)
    target, draft = models(2, shared=shared)
    scheduler = Scheduler(target, draft, 1024)
    heard = [Heard(), Heard()]

    class Cancels(Heard):
        def tokens(self, tokens, logprobs=()):  # type: ignore[no-untyped-def]
            super().tokens(tokens, logprobs)
            if target.judged:
                scheduler.cancel(heard[1])

    heard[0] = Cancels()
    for listener in heard:
        scheduler.submit(request(20, [11] * 4), listener)
    while scheduler.step():
        pass
    assert any(len(together) == 2 for together in target.judged)
    assert heard[0].said == alone(request(20, [11] * 4)).said
    assert heard[1].reason == "cancelled" and not heard[1].said


def test_answers_go_on_between_the_chunks_of_a_prompt() -> None:
    target, draft = models(2)
    target.say = mixing(1, 997)
    scheduler, heard = Scheduler(target, draft, 16), [Heard(), Heard()]
    scheduler.submit(request(20, [5], max_rounds=0), heard[0])
    scheduler.step()
    scheduler.submit(request(5, [6] * 58, max_rounds=0), heard[1])
    said = []
    while not heard[1].said:
        said.append(len(heard[0].said))
        scheduler.step()
    # A chunk of 16 tokens a step, and a token of the other answer.
    assert said == [1, 2, 3, 4] and target.prompts == [[0], [1], [1], [1], [1]]


class Late(Fake):
    """Fails when a pass is waited for."""

    def begin_prefill(self, chunks: Sequence[Chunk]) -> Prefilled:
        wait = super().begin_prefill(chunks)

        def fail() -> NoReturn:
            raise FoundryError("this one fails")

        return fail if 666 in {chunk.sampling.seed for chunk in chunks} else wait


class Failing(Fake):
    def decode(self, batch: Batch) -> list[int]:
        if 666 in {s.seed for s in batch.samplings}:
            raise FoundryError("this one fails")
        return super().decode(batch)


class Unready(Fake):
    def begin_prefill(self, chunks: Sequence[Chunk]) -> Prefilled:
        if 666 in {chunk.sampling.seed for chunk in chunks}:
            raise FoundryError("this one fails")
        return super().begin_prefill(chunks)


@pytest.mark.parametrize("kind", [Failing, Unready, Late])
@pytest.mark.parametrize("role", ["target", "draft"])
def test_an_error_ends_its_own_request(role: str, kind: type[Fake]) -> None:
    target, draft = models(4)
    bad = kind(mixing(1, 997), judge, slots=4) if role == "target" else target
    worse = kind(mixing(2, 997), slots=4) if role == "draft" else draft
    scheduler, heard = Scheduler(bad, worse), [Heard() for _ in range(6)]
    rounds = 0 if role == "target" else 1
    seeds = [666 if i == 2 else 1 for i in range(6)]
    chosen = [request(30, [i + 1], seed, max_rounds=rounds) for i, seed in enumerate(seeds)]
    for one, listener in zip(chosen, heard, strict=True):
        scheduler.submit(one, listener)
    while scheduler.step():
        pass
    assert [h.error is not None for h in heard] == [i == 2 for i in range(6)]
    for one, listener in zip(chosen, heard, strict=True):
        if listener.error is None:
            again = Scheduler(bad, worse)
            again.submit(one, expected := Heard())
            while again.step():
                pass
            assert listener.said == expected.said


def test_a_listener_that_raises_ends_its_own_request() -> None:
    class Broken(Heard):
        def tokens(self, tokens, logprobs=()):  # type: ignore[no-untyped-def]
            raise ValueError("broken")

    scheduler, heard = Scheduler(*models(2)), [Broken(), Heard()]
    for listener in heard:
        scheduler.submit(request(30), listener)
    while scheduler.step():
        pass
    assert isinstance(heard[0].error, ValueError) and heard[1].said == alone(request(30)).said


def test_a_cancelled_slot_is_taken_by_the_next() -> None:
    scheduler, heard = Scheduler(*models(1)), [Heard(), Heard(), Heard()]
    for listener in heard:
        scheduler.submit(request(30), listener)
    scheduler.step()
    scheduler.cancel(heard[1])
    scheduler.cancel(heard[0])
    scheduler.cancel(heard[0])
    assert (scheduler.running, scheduler.waiting) == (0, 1)
    while scheduler.step():
        pass
    assert [h.reason for h in heard[:2]] == ["cancelled"] * 2
    assert heard[2].said == alone(request(30)).said


class Waiting(Heard):
    """Ended when `event` is set; holds the engine back while `gate` is closed."""

    def __init__(self, gate: threading.Event | None = None) -> None:
        super().__init__()
        self.event, self.gate = threading.Event(), gate

    def tokens(self, tokens, logprobs=()):  # type: ignore[no-untyped-def]
        if self.gate:
            assert self.gate.wait(10)
        return super().tokens(tokens)

    def finished(self, reason, statistics):  # type: ignore[no-untyped-def]
        super().finished(reason, statistics)
        self.event.set()


def test_the_engine_takes_from_many_threads_and_finishes_on_close() -> None:
    engine = Engine(Scheduler(*models(3)), queue=100)
    heard = [Waiting() for _ in range(24)]

    def submit(part: list[Waiting], seed: int) -> None:
        for listener in part:
            engine.submit(request(25, seed=seed), listener)

    threads = [threading.Thread(target=submit, args=(heard[i::4], i)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.close()
    assert engine.state == "stopped" and engine.load == (0, 0)
    for i, listener in enumerate(heard):
        assert listener.said == alone(request(25, seed=i % 4)).said
    with pytest.raises(FoundryError, match="stopped"):
        engine.submit(request(), Waiting())


def test_too_many_are_refused_until_one_ends() -> None:
    gate = threading.Event()
    engine = Engine(Scheduler(*models(1)), queue=1)
    try:
        first, second, third = Waiting(gate), Waiting(), Waiting()
        engine.submit(request(30), first)
        engine.submit(request(30), second)
        with pytest.raises(Overloaded):
            engine.submit(request(30), Waiting())
        with pytest.raises(UsageError, match="exceed"):
            engine.submit(request(100), Waiting())
        engine.cancel(second)
        gate.set()
        assert first.event.wait(10) and second.event.wait(10)
        engine.submit(request(30), third)
        assert third.event.wait(10) and third.said == alone(request(30)).said
        assert second.reason == "cancelled" or second.said == third.said
    finally:
        gate.set()
        engine.close()


def test_the_engine_outlives_listeners_that_raise() -> None:
    class Unfinished(Waiting):
        def finished(self, reason, statistics):  # type: ignore[no-untyped-def]
            raise ValueError("finished")

        def failed(self, error):  # type: ignore[no-untyped-def]
            super().failed(error)
            self.event.set()

    class Hopeless(Unfinished):
        def failed(self, error):  # type: ignore[no-untyped-def]
            super().failed(error)
            raise ValueError("failed")

    engine = Engine(Scheduler(*models(3)))
    try:
        heard = [Unfinished(), Hopeless(), Waiting(), Waiting(), Hopeless()]
        for listener in heard:
            engine.submit(request(25), listener)
        engine.cancel(heard[4])
        assert all(listener.event.wait(10) for listener in heard)
    finally:
        engine.close()
    assert [str(listener.error) for listener in heard] == [
        "finished", "finished", "None", "None", "finished",
    ]  # fmt: skip
    assert heard[2].said == heard[3].said == alone(request(25)).said
    assert engine.load == (0, 0)


def test_sampling_belongs_to_the_request() -> None:
    assert alone(request(30, seed=1)).said != alone(request(30, seed=2)).said
    assert Sampling() == Sampling(0.0, 1.0, 0) and PROMPT
