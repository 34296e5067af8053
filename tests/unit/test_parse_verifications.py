"""Verifications that may share a pass: which wait for others, and for how long."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from foundryrt.errors import FoundryError
from parse_runtime.engine import putting_off
from parse_runtime.engine.protocols import Verdict, Verification
from parse_runtime.engine.request import Request
from parse_runtime.engine.scheduler import Scheduler
from parse_runtime.signature.sizes import SharedSize
from tests.unit.parse_fakes import Fake, Heard, answered, mixing, request


def judge(held: list[int]) -> float:
    return hash(tuple(held)) % 100 / 100


def models(slots: int, shared: tuple[SharedSize, ...] = ()) -> tuple[Fake, Fake]:
    return Fake(mixing(1), judge, slots=slots, shared=shared), Fake(mixing(2, 997), slots=slots)


def begun(scheduler: Scheduler, asked: Sequence[Request]) -> list[Heard]:
    heard = [Heard() for _ in asked]
    for chosen, listener in zip(asked, heard, strict=True):
        scheduler.submit(chosen, listener)
    return heard


def check(scheduler: Scheduler, asked: Sequence[Request], heard: Sequence[Heard]) -> None:
    while scheduler.step():
        pass
    for chosen, listener in zip(asked, heard, strict=True):
        listener.check(answered(Scheduler(*models(1)), chosen))


@pytest.mark.parametrize("shared, judged", [((SharedSize(256, 9, 4),), [[0, 1]]), ((), [])])
def test_they_wait_for_as_many_drafts_as_are_being_written(
    shared: tuple[SharedSize, ...], judged: list[list[int]]
) -> None:
    target, draft = models(4, shared)
    scheduler = Scheduler(target, draft)
    asked = [request(limit, [i + 1] * 4) for i, limit in enumerate((6, 9, 14, 20))]
    heard, steps = begun(scheduler, asked), 0
    while not target.passes:
        scheduler.step()
        steps += 1
    # A step brings each draft a token; the first is complete three steps before the second.
    assert steps == (10 if shared else 7)
    check(scheduler, asked, heard)
    assert target.judged == judged


def test_those_that_end_together_go_on_together() -> None:
    target, draft = (
        Fake(mixing(salt, 10**9), slots=6, shared=(SharedSize(64, 9, 2),)) for salt in (1, 2)
    )
    scheduler = Scheduler(target, draft)
    asked = [request(12, [i + 1] * 30) for i in range(6)]
    heard = begun(scheduler, asked)
    while scheduler.step():
        pass
    # Two prefills of each model and three verifications; no step is of a few.
    assert [len(slots) for slots in target.prompts + draft.prompts] == [3] * 4
    assert [len(slots) for slots in target.judged] == [2] * 3
    assert set(draft.batches) == set(target.batches) == {6}
    assert all(len(listener.said) == 12 for listener in heard)


class Unfit(Fake):
    """Judges nothing of slot 2."""

    def verify(self, slot: int, wanted: Verification) -> Verdict:
        if slot == 2:
            raise FoundryError("no verdict")
        return super().verify(slot, wanted)


def test_between_two_passes_of_a_step_one_may_leave_and_one_fail() -> None:
    target = Unfit(mixing(1, 10**9), lambda held: 1.0, slots=6, shared=(SharedSize(64, 9, 2),))
    draft = Fake(mixing(2, 10**9), slots=6)
    scheduler = Scheduler(target, draft)
    asked = [request(12, [i + 1] * 30) for i in range(6)]
    heard = begun(scheduler, asked[:5])
    leaving = Heard()
    heard[0].tokens = lambda *told: scheduler.cancel(leaving) or Heard.tokens(heard[0], *told)  # type: ignore[method-assign]
    scheduler.submit(asked[5], leaving)
    while not heard[0].done:
        scheduler.step()
    # All of one step: the last pass has one of two, the second is repeated for each of its two.
    assert leaving.reason == "cancelled" and not leaving.said
    assert [one.reason for one in heard] == ["length", "length", "", "length", "length"]
    assert isinstance(heard[2].error, FoundryError)
    assert not scheduler.step() and target.judged == [[0, 1], [2, 3]]
    for i in (0, 1, 3, 4):
        said = answered(
            Scheduler(Fake(mixing(1), lambda held: 1.0), Fake(mixing(2, 10**9))), asked[i]
        )
        assert heard[i].said == said.said


@pytest.mark.parametrize("rules", [{"max_rounds": 0}, {"max_rounds": 2, "resume_tokens": 30}])
def test_while_one_resumes_a_step_has_one_of_the_largest_passes(rules: dict[str, int]) -> None:
    target, draft = (
        Fake(mixing(salt, 10**9), slots=7, shared=(SharedSize(96, 9, 2),)) for salt in (1, 2)
    )
    scheduler = Scheduler(target, draft)
    begun(scheduler, [request(40, [9], **rules)])
    while not target.batches:
        scheduler.step()
    begun(scheduler, [request(12, [i + 1] * 30) for i in range(6)])
    told = []
    while len(target.judged) < 3:
        before = len(target.judged), len(target.batches)
        scheduler.step()
        told.append((len(target.judged) - before[0], len(target.batches) - before[1]))
    # Its next token comes between two of them.
    assert told[-3:] == [(1, 1)] * 3


def test_answers_of_the_target_alone_do_not_wait_for_each_other_s_prompts() -> None:
    target, draft = (Fake(mixing(salt, 10**9), slots=6) for salt in (1, 2))
    scheduler = Scheduler(target, draft)
    begun(scheduler, [request(9, [i + 1] * 30, max_rounds=0) for i in range(6)])
    for _ in range(2):
        scheduler.step()
    assert [len(slots) for slots in target.prompts] == [3, 3] and target.batches == [3]


def test_they_do_not_wait_long_for_drafts_that_share_none(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(putting_off.time, "monotonic", lambda: now)
    target, draft = models(3, (SharedSize(64, 20, 4),))
    scheduler = Scheduler(target, draft)
    # As many rows as the others' verifications have, no pass is shared by.
    asked = [request(limit, [i + 1] * 4) for i, limit in enumerate((6, 50, 50))]
    heard = begun(scheduler, asked)
    for _ in range(12):
        scheduler.step()
    assert not target.passes
    now += 2
    scheduler.step()
    assert len(target.passes) == 1 and not heard[1].said
    check(scheduler, asked, heard)
