"""Passes of prompts and a decode step together: what goes into them, and what comes behind."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundryrt.errors import FoundryError
from parse_runtime.engine.batch import Batch, Chunk, Sampling
from parse_runtime.engine.packing import holding
from parse_runtime.engine.planned import _beside
from parse_runtime.engine.request import Request
from parse_runtime.engine.scheduler import Scheduler
from parse_runtime.graphs.loading import open_models
from parse_runtime.graphs.target import GraphTarget
from parse_runtime.sampling.processing import Processing
from parse_runtime.signature.plan import ALIGNMENT
from parse_runtime.signature.sizes import PrefillSize, mixed_sizes, prompts_of
from tests.unit.parse_device import Device
from tests.unit.parse_fakes import Fake, Heard, answered, mixing, request

SAYS, GREEDY = mixing(1, 997), Sampling()


def device(**options: Any) -> Device:
    return Device(SAYS, mixing(2), lambda held: 0.0, **{"slots": 3, "mixed": (3,), **options})


def asked(limit: int, first: int, rows: int, **changes: Any) -> Request:
    return request(limit, [first] * rows, max_rounds=0, **changes)


def answers(used: Device, requests: Sequence[Request], pauses: Sequence[int] = ()) -> Device:
    """Each some steps behind the one before, or one; compared with answers alone."""
    scheduler, heard = Scheduler(*open_models(used)), [Heard() for _ in requests]
    for chosen, listener, pause in zip(requests, heard, pauses or [1] * len(requests), strict=True):
        scheduler.submit(chosen, listener)
        for _ in range(pause):
            scheduler.step()
    while scheduler.step():
        pass
    for chosen, listener in zip(requests, heard, strict=True):
        alone = answered(Scheduler(Fake(SAYS), Fake(mixing(2))), chosen)
        assert (listener.said, listener.reason, listener.error) == (alone.said, "length", None)
    return used


def launched(used: Device) -> tuple[int, int, int]:
    """Target's passes of prompts alone, of steps alone, and of both."""
    return tuple(used.launches.count(f"target.{name}") for name in ("prefill", "decode", "mixed"))


def test_a_prompt_goes_beside_a_step_and_its_answer_joins_the_next() -> None:
    given = [asked(12, 3, 2), asked(12, 5, 16)]
    # The second answer is a step behind the first, and no step is computed twice.
    assert launched(answers(device(mixed=()), given)) == (2, 12, 0)
    assert launched(answers(device(), given)) == (1, 12, 1)


def test_what_a_mixed_pass_found_is_told_while_the_next_step_runs() -> None:
    used, heard = device(), [Heard(), Heard()]
    scheduler, told = Scheduler(*open_models(used)), []
    scheduler.told = lambda: told.append((len(heard[1].said), list(used.launches)))
    for listener, chosen in zip(heard, (asked(12, 3, 2), asked(12, 5, 16)), strict=True):
        scheduler.submit(chosen, listener)
        scheduler.step()
    while scheduler.step():
        pass
    launches = next(launches for said, launches in told if said)
    assert launches[-2:] == ["target.mixed", "target.decode"]


def test_what_a_mixed_pass_found_does_not_wait_for_other_passes_of_its_step() -> None:
    used, heard = device(), [Heard() for _ in range(3)]
    scheduler, told = Scheduler(*open_models(used)), []
    scheduler.told = lambda: told.append((len(heard[2].said), list(used.launches)))
    # A draft is due behind the end of the last prompt.
    for i, chosen in enumerate((asked(40, 3, 2), request(20, [5] * 20), asked(12, 7, 40))):
        scheduler.submit(chosen, heard[i])
        if not i:
            scheduler.step()
    while scheduler.step():
        pass
    launches = next(launches for said, launches in told if said)
    assert launches[-1] == "target.mixed" and "draft.prefill" in told[-1][1]


def test_what_is_left_of_a_prompt_goes_beside_the_next_step() -> None:
    given = [asked(20, 3, 2), asked(9, 5, 20), asked(9, 7, 40)]
    # The last prompt has 32 of the pass' 64 rows first, and 8 then.
    assert launched(answers(device(), given, pauses=(1, 0, 0))) == (1, 17, 2)


def test_prompts_that_come_one_after_the_other_find_the_step_on_its_way() -> None:
    given = [asked(20, first, 16) for first in (3, 5, 7)]
    prefills, steps, both = launched(answers(device(), given))
    assert prefills == 1 and both == 2 and steps + both <= 23


def test_an_answer_s_only_step_goes_beside_others_prompts() -> None:
    """It joins the step behind its prompt, though more prompts wait."""
    requests = [asked(30, 3, 2), asked(2, 5, 16), *(asked(2, 7, 40) for _ in range(4))]
    scheduler = Scheduler(*open_models(device(slots=6, mixed=(6,))))
    heard = [Heard() for _ in requests]
    for chosen, listener in zip(requests[:2], heard, strict=False):
        scheduler.submit(chosen, listener)
        scheduler.step()
    for chosen, listener in zip(requests[2:], heard[2:], strict=True):
        scheduler.submit(chosen, listener)
    while not heard[1].done:
        scheduler.step()
    assert not all(listener.said for listener in heard)


def test_a_step_of_more_sequences_than_a_pass_takes_is_one_of_its_own() -> None:
    given = [asked(20, first, 16) for first in (3, 5, 7)]
    used = answers(device(mixed=(1,)), given)
    assert launched(used)[0] == 2 and launched(used)[2] == 1


def test_passes_whose_graph_is_not_ready_are_not_waited_for() -> None:
    def late(name: str, size: int) -> int:
        return 99 * (name == "target.mixed")

    used = answers(device(late=late), [asked(12, 3, 2), asked(12, 5, 16)])
    assert launched(used)[2] == 0 and not used.waited_for


def test_logits_come_of_steps_of_their_own() -> None:
    given = [asked(12, 3, 2, processing=Processing(logprobs=1)), asked(12, 5, 16)]
    assert launched(answers(device(), given))[2] == 0
    # Those behind a prompt come of any pass.
    assert launched(answers(device(), given[::-1]))[2] == 1


@pytest.mark.parametrize(
    ("resuming", "prompts", "rows"),
    [
        (0, 9, []),
        (20, 0, [224, 480]),  # beside 32
        (40, 56, [192, 448]),  # beside 64
        (40, 57, [192, 448, 1984]),  # many run
        (100, 1, [128, 384, 1920]),  # beside 128
        (129, 1, []),
    ],
)
def test_passes_beside_steps_are_small_while_few_answers_run(
    resuming: int, prompts: int, rows: list[int]
) -> None:
    target = SimpleNamespace(mixed=mixed_sizes((256, 512, 2048), (32, 64, 128), 200))
    assert [size.rows for size in _beside(target, resuming, prompts)] == rows
    large = SimpleNamespace(mixed=mixed_sizes((1024, 2048), (32, 64), 200))
    assert [size.rows for size in _beside(large, 20, 0)] == [992]


def test_answers_that_are_about_to_end_have_no_step_beside_a_prompt() -> None:
    used = answers(device(), [asked(2, 3, 2), asked(12, 5, 16)])
    assert launched(used) == (2, 12, 0)


@pytest.mark.parametrize("late", [False, True])
def test_a_mixed_pass_that_fails_costs_no_answer(
    late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = GraphTarget.begin_mixed

    def fail() -> NoReturn:
        raise FoundryError("out of order")

    def failing(target: GraphTarget, chunks: Sequence[Chunk], batch: Batch) -> Any:
        return (begin(target, chunks, batch), fail)[1] if late else fail()

    monkeypatch.setattr(GraphTarget, "begin_mixed", failing)
    answers(device(), [asked(12, 3, 2), asked(12, 5, 16)])


def test_a_step_on_its_way_is_told_and_others_are_asked_for_again() -> None:
    target, _ = open_models(used := device())
    first = target.prefill(0, [4, 4], 0, GREEDY)
    wait = target.begin_mixed([Chunk(1, [6] * 9, 0, GREEDY)], Batch([0], [first], [2], [GREEDY]))
    assert target.row_tokens[0, :3].tolist() == [4, 4, -1]
    prompt = wait()
    assert prompt == [SAYS([6] * 9, GREEDY)]
    batch = Batch([1, 0], [*prompt, first], [9, 2], [GREEDY] * 2, ahead=True)
    told = target.extend(batch)
    second = SAYS([4, 4, first], GREEDY)
    assert told == [None, [second]]
    # Its last token may turn out not to be wanted.
    assert target.row_tokens[0, :4].tolist() == [4, 4, first, -1]
    # That of both was launched already.
    before = launched(used)
    told = target.extend(Batch([1, 0], [*prompt, second], [9, 3], [GREEDY] * 2))
    assert told == [[SAYS([6] * 9 + prompt, GREEDY)], [SAYS([4, 4, first, second], GREEDY)]]
    assert launched(used) == before


few = st.lists(st.integers(1, 200), min_size=1, max_size=4, unique=True).map(sorted)


@given(few, few, st.integers(1, 9))
def test_prompts_of_a_mixed_pass_have_a_prefill_pass(
    prefill: list[int], batches: list[int], slots: int
) -> None:
    passes = [PrefillSize(rows, prompts_of(rows, slots)) for rows in prefill]
    sizes = mixed_sizes(prefill, batches, slots)
    assert sizes == tuple(sorted(sizes, key=lambda size: (size.batch, size.rows)))
    for rows, prompts, _ in sizes:
        others = ALIGNMENT * (prompts - 1)
        holding([*[ALIGNMENT] * (prompts - 1), rows - others], passes)
