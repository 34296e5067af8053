"""Steps that are launched before the host has read the last: the answers of steps that wait."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundryrt.errors import FoundryError
from parse_runtime.engine.batch import Batch, Sampling
from parse_runtime.engine.memory import SHARING
from parse_runtime.engine.protocols import Verification
from parse_runtime.engine.request import Request
from parse_runtime.engine.scheduler import Scheduler
from parse_runtime.graphs.decoder import GraphDecoder
from parse_runtime.graphs.loading import open_models
from parse_runtime.sampling.processing import Processing
from tests.unit.parse_device import MAX_LEN, SHARED, Device
from tests.unit.parse_fakes import Fake, Heard, answered, mixing, request


def judge(held: list[int]) -> float:
    return hash(tuple(held)) % 64 / 64  # as float32 has it


def device(slots: int = 3, **options) -> Device:
    return Device(mixing(1), mixing(2), judge, slots, **options)


def alone(chosen: Request) -> Heard:
    return answered(Scheduler(Fake(mixing(1), judge), Fake(mixing(2))), chosen)


requests = st.builds(
    request, st.integers(1, 40),
    st.lists(st.integers(1, 50), min_size=1, max_size=20) | st.sampled_from([[5] * 23, [5] * 20]),
    st.integers(0, 3), st.sampled_from([None, None, None, Processing(logprobs=1)]),
    max_rounds=st.integers(0, 2), threshold=st.sampled_from([0.0, 0.3, 0.9]),
    stride=st.integers(5, 9),
).map(lambda r: r if not r.processing.needed else request(
    r.max_new_tokens, r.prompt, processing=r.processing, max_rounds=0
))  # fmt: skip


@given(
    st.lists(st.tuples(requests, st.integers(0, 12)), min_size=1, max_size=9),
    st.integers(1, 4), st.integers(0, 120), st.sampled_from([(), (1,), (1, 3)]), st.booleans(),
    st.booleans(), st.sets(st.integers(0, 8)),
    st.none() | st.integers(MAX_LEN, 3 * MAX_LEN), st.sampled_from(SHARING), st.booleans(),
    st.sampled_from([(), (1,), (2,), (1, 4)]),
)  # fmt: skip
def test_answers_are_those_of_steps_that_wait(
    arrivals: list[tuple[Request, int]], slots: int, rows: int, sizes: tuple[int, ...],
    run_ahead: bool, packs: bool, dropped: set[int], kv_tokens: int | None, sharing: str,
    shares: bool, mixed: tuple[int, ...],
) -> None:  # fmt: skip
    shared = tuple(size._replace(drafts=min(size.drafts, slots)) for size in SHARED)
    sizes = tuple(size for size in sizes if size <= slots)
    used = device(slots, decode=sizes, run_ahead=run_ahead, packs=packs, kv_tokens=kv_tokens,
                  shared=shared if shares and slots > 1 else (),
                  mixed=mixed if packs and run_ahead else ())  # fmt: skip
    scheduler = Scheduler(*open_models(used), rows, sharing)
    heard: list[Heard] = []
    for i, (chosen, pause) in enumerate(arrivals):
        heard.append(Heard())
        scheduler.submit(chosen, heard[-1])
        for _ in range(pause):
            scheduler.step()
        if i // 2 in dropped and not heard[i // 2].done:
            scheduler.cancel(heard[i // 2])
    while scheduler.step():
        pass
    assert used.steps_ahead <= (3 if run_ahead else 1)
    for (chosen, _), got in zip(arrivals, heard, strict=True):
        got.check(alone(chosen))


def test_caches_that_hold_no_sequence_are_refused() -> None:
    with pytest.raises(FoundryError, match="do not hold one sequence"):
        open_models(device(kv_tokens=MAX_LEN - 1))


def decoded(decoder: GraphDecoder, slots: list[int], count: int, ahead: bool) -> list[list[int]]:
    """Tokens of sequences that begin as [1, slot], step by step."""
    found = [[1, slot, decoder.prefill(slot, [1, slot], 0, Sampling())] for slot in slots]
    for _ in range(count):
        positions = [len(sequence) - 1 for sequence in found]
        last = [sequence[-1] for sequence in found]
        batch = Batch(slots, last, positions, [Sampling()] * len(slots), ahead=ahead)
        for sequence, token in zip(found, decoder.decode(batch), strict=True):
            sequence.append(token)
    return found


def test_a_step_is_launched_before_the_one_before_is_read() -> None:
    counts = {}
    for ahead in (False, True):
        target, _ = open_models(used := device())
        writes: list[str] = []
        used.write = watched(used.write, writes)  # type: ignore[method-assign]
        found = decoded(target, [0, 2], 9, ahead)
        steps = used.launches.count("target.decode")
        plans = writes.count("target.decode.2.plan")
        counts[ahead] = found, steps, plans, used.steps_ahead
    assert counts[False] == (found, 9, 9, 1)
    # One step more than was asked for; only the first was told where it is.
    assert counts[True] == (found, 10, 1, 2)


def watched(write: Callable[..., None], names: list[str]) -> Callable[..., None]:
    def writing(name: str, values: object) -> None:
        names.append(name)
        write(name, values)

    return writing


def test_a_step_ahead_stays_within_the_sequence() -> None:
    target, _ = open_models(used := device())
    # The last token comes after the last row, and has none.
    [sequence] = decoded(target, [1], MAX_LEN - 2, True)
    assert len(sequence) == MAX_LEN + 1 and used.launches.count("target.decode") == MAX_LEN - 2
    [again] = decoded(open_models(device(run_ahead=False))[0], [1], MAX_LEN - 2, True)
    assert again == sequence


@pytest.mark.parametrize("other_pass", ["prefill", "verify"])
def test_what_is_left_in_flight_is_not_taken_for_another_sequence(other_pass: str) -> None:
    """The slot's next sequence has the token at the place where it was expected."""
    target, _ = open_models(device())
    [sequence] = decoded(target, [0], 4, True)
    other, last, position = [9, *sequence[1:-1]], sequence[-1], len(sequence) - 1
    if other_pass == "prefill":
        target.prefill(0, other, 0, Sampling())
    else:
        target.verify(0, Verification(other, 0, [position], [70, 71]))
    [token] = target.decode(Batch([0], [last], [position], [Sampling()]))
    assert token == mixing(1)([*other, last], Sampling())


def test_what_is_in_flight_is_not_taken_for_another_token_or_sampling() -> None:
    for change in (1, 0):
        target, _ = open_models(device())
        [sequence] = decoded(target, [0], 4, True)
        asked, sampling = [*sequence[:-1], sequence[-1] + change], Sampling(seed=1 - change)
        [token] = target.decode(Batch([0], asked[-1:], [len(asked) - 1], [sampling]))
        assert token == mixing(1)(asked, sampling)


def test_rows_filled_ahead_are_not_claimed() -> None:
    target, _ = open_models(device())
    prompt = list(range(1, 11))
    target.prefill(0, prompt, 0, Sampling())
    target.decode(Batch([0], [33], [4], [Sampling()], ahead=True))
    assert target.row_tokens[0, :10].tolist() == [1, 2, 3, 4, 33, -1, 7, 8, 9, 10]


@pytest.mark.parametrize("order", [[0, 2], [2], [2, 1, 0]])
def test_sequences_may_leave_and_change_places(order: list[int]) -> None:
    target, _ = open_models(used := device())
    found = dict(enumerate(decoded(target, [0, 1, 2], 4, True)))
    before = used.launches.count("target.decode")
    for _ in range(3):
        positions = [len(found[slot]) - 1 for slot in order]
        last = [found[slot][-1] for slot in order]
        samplings = [Sampling()] * len(order)
        for slot, token in zip(
            order, target.decode(Batch(order, last, positions, samplings, ahead=True)), strict=True
        ):
            found[slot].append(token)
    assert used.launches.count("target.decode") == before + 3
    for slot in order:
        assert found[slot] == decoded(open_models(device())[0], [slot], 7, False)[0]


def test_only_steps_that_are_wanted_are_run() -> None:
    """An answer that ends at its limit leaves no step behind, and prefills none between."""
    chosen = request(12, [3, 4], max_rounds=0)
    limit = alone(chosen)
    assert limit.reason == "length"
    scheduler = Scheduler(*open_models(used := device()))
    scheduler.submit(chosen, heard := Heard())
    while scheduler.step():
        pass
    assert heard.said == limit.said
    assert used.launches.count("target.decode") == 11 and used.steps_ahead == 2


def test_chunks_of_a_prompt_hold_up_no_step_ahead() -> None:
    asked = [request(20, [4, 4], max_rounds=0), request(9, [5] * 20, max_rounds=0)]
    scheduler = Scheduler(*open_models(used := device()), 4)
    writes: list[str] = []
    used.write = watched(used.write, writes)  # type: ignore[method-assign]
    heard = [Heard(), Heard()]
    for chosen, listener in zip(asked, heard, strict=True):
        scheduler.submit(chosen, listener)
        scheduler.step()
    while scheduler.step():
        pass
    for chosen, listener in zip(asked, heard, strict=True):
        listener.check(alone(chosen))
        assert listener.reason == "length"
    # The host writes a plan where an answer begins, joins, or is left alone.
    plans = [name for name in writes if "decode" in name and "plan" in name]
    assert plans == [f"target.decode.{batch}.plan" for batch in (1, 2, 1)]
    assert used.launches.count("target.prefill") == 6


@pytest.mark.parametrize(("prompt", "passes"), [([3, 4], 1), ([1] * 20, 2)])
def test_no_step_is_launched_ahead_of_a_sequence_that_joins(prompt: list[int], passes: int) -> None:
    """It would have to be repeated, or the sequence have a step of its own."""
    scheduler = Scheduler(*open_models(used := device()), 20)
    asked = request(12, [3, 4], max_rounds=0), request(12, prompt, max_rounds=0)
    heard = [Heard(), Heard()]
    for chosen, listener in zip(asked, heard, strict=True):
        scheduler.submit(chosen, listener)
        scheduler.step()
    while scheduler.step():
        pass
    for chosen, listener in zip(asked, heard, strict=True):
        listener.check(alone(chosen))
    assert used.launches.count("target.prefill") == 1 + passes
    # The second answer is a step behind the first.
    assert used.launches.count("target.decode") == 12
