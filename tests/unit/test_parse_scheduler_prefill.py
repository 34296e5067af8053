"""Prefills beside other answers: how much of them a step has, and when they are launched."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from parse_runtime.engine import planned as planned_module
from parse_runtime.engine.batch import Chunk
from parse_runtime.engine.request import Request
from parse_runtime.engine.scheduler import Scheduler
from tests.unit.parse_fakes import Fake, Heard, answered, mixing, request


def models(slots: int) -> tuple[Fake, Fake]:
    return Fake(mixing(1, 997), slots=slots), Fake(mixing(2), slots=slots)


def alone(asked: Request) -> list[int]:
    """What an answer says that nothing else runs beside."""
    return answered(Scheduler(*models(1)), asked).said


@pytest.mark.parametrize("others, passes", [(False, 1), (True, 4)])
def test_prompts_take_a_quarter_of_the_room_beside_others(
    others: bool, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planned_module, "room_for", lambda due, most, few: 24 if few else most)
    target, draft = models(2)
    scheduler, heard = Scheduler(target, draft), [Heard(), Heard()]
    if others:
        scheduler.submit(request(20, [5], max_rounds=0), heard[0])
        scheduler.step()
    before = len(target.prompts)
    scheduler.submit(request(5, [6] * 58, max_rounds=0), heard[1])
    for _ in range(passes):
        assert not heard[1].said
        scheduler.step()
    # Of 96 rows, or of 16 where a quarter has room.
    assert heard[1].said and len(target.prompts) == before + passes


class Told(Heard):
    """Notes how many passes of `target` have been launched when it hears of its tokens."""

    def __init__(self, target: Fake, then: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self._target, self._then = target, then
        self.launched: list[int] = []

    def tokens(self, tokens, logprobs=()):  # type: ignore[no-untyped-def]
        super().tokens(tokens, logprobs)
        self.launched.append(len(self._target.prompts))
        self._then()


def test_a_prefill_is_launched_before_others_are_told_their_tokens() -> None:
    target, draft = models(2)
    scheduler, heard = Scheduler(target, draft), [Told(target), Heard()]
    scheduler.submit(request(20, [5], max_rounds=0), heard[0])
    scheduler.step()
    scheduler.submit(asked := request(5, [6] * 8, max_rounds=0), heard[1])
    scheduler.step()
    assert heard[0].launched == [1, 2]
    while scheduler.step():
        pass
    assert heard[1].said == alone(asked)


def test_an_answer_may_be_cancelled_while_its_prompt_is_on_the_device() -> None:
    target, draft = models(3)
    scheduler, heard = Scheduler(target, draft), [Heard(), Heard()]
    teller = Told(target, lambda: len(target.prompts) == 2 and scheduler.cancel(heard[0]))
    scheduler.submit(request(20, [5], max_rounds=0), teller)
    scheduler.step()
    asked = [request(5, [i] * 8, max_rounds=0) for i in (6, 7)]
    for one, listener in zip(asked, heard, strict=True):
        scheduler.submit(one, listener)
    while scheduler.step():
        pass
    assert heard[0].reason == "cancelled" and not heard[0].said
    assert heard[1].said == alone(asked[1])


class Waiting(Fake):
    """Of a device whose launches return when they have ended."""

    def overlaps(self, chunks: Sequence[Chunk]) -> bool:
        return False


def test_tokens_are_told_before_a_prefill_that_the_host_would_wait_for() -> None:
    target, draft = Waiting(mixing(1, 997), slots=2), models(2)[1]
    scheduler, heard = Scheduler(target, draft), Told(target)
    scheduler.submit(request(20, [5], max_rounds=0), heard)
    scheduler.step()
    scheduler.submit(request(5, [6] * 8, max_rounds=0), Heard())
    scheduler.step()
    assert heard.launched == [1, 1] and len(target.prompts) == 2
