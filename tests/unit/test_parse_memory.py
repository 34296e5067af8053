"""More answers than blocks: they wait or give way, none is lost, and none becomes another."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundryrt.errors import UsageError
from parse_runtime.engine.memory import SHARING, Memory
from parse_runtime.engine.request import Request
from parse_runtime.engine.scheduler import Scheduler
from parse_runtime.engine.sequence import Decode, Extend
from parse_runtime.sampling.processing import Processing
from parse_runtime.signature.sizes import BLOCK, PrefillSize, prompts_of
from tests.unit.parse_fakes import Fake, Heard, answered, mixing, request, submitted

MAX_LEN = 64
NEVER = 1 << 60
COMMON = [list(range(1, 41)), [3] * 33, [7, 8]]
"""What prompts begin with."""


def judge(held: list[int]) -> float:
    return hash(tuple(held)) % 100 / 100


def models(slots: int, tokens: int = 0, several: int = 1, pass_rows: int = 8, proposes: int = 0,
           ahead: int = 0, stop_every: int = 41) -> tuple[Fake, Fake]:  # fmt: skip
    passes = (PrefillSize(pass_rows, prompts_of(pass_rows, slots)),)
    more = {"slots": slots, "kv_tokens": tokens, "prefills": passes}
    say, draft = mixing(1, stop_every), Fake(mixing(2), reach=1 + ahead, **more)
    proposing = {"proposes": proposes, "drafter": draft if proposes else None}
    return Fake(say, judge, several, reach=several + ahead, **proposing, **more), draft


def alone(chosen: Request, stop_every: int = 41) -> Heard:
    return answered(Scheduler(*models(1, stop_every=stop_every)), chosen)


def asked(
    limit: int, common: list[int], tail: list[int], seed: int, chosen: bool, **rules: object
) -> Request:
    """`chosen`: from logits, by the target alone."""
    if chosen:
        return request(limit, common + tail, seed, Processing(min_tokens=1), max_rounds=0)
    return request(limit, common + tail, seed, **rules)


requests = st.builds(
    asked, st.integers(1, 20), st.sampled_from(COMMON),
    st.lists(st.integers(1, 2), min_size=1, max_size=4), st.integers(0, 3), st.booleans(),
    max_rounds=st.integers(0, 3), two_stage=st.booleans(),
    threshold=st.sampled_from([0.0, 0.3, 0.9]), stride=st.integers(1, 9),
)  # fmt: skip


@given(
    arrivals=st.lists(st.tuples(requests, st.integers(0, 8)), min_size=1, max_size=12),
    slots=st.integers(1, 5), tokens=st.integers(MAX_LEN, 3 * MAX_LEN),
    sizes=st.fixed_dictionaries(
        {"several": st.integers(1, 4), "pass_rows": st.sampled_from([4, 16, 24, 64]),
         "proposes": st.integers(0, 4), "ahead": st.integers(0, 1)}
    ),
    rows=st.integers(0, 64), sharing=st.sampled_from(SHARING),
    dropped=st.sets(st.integers(0, 11)),
)  # fmt: skip
def test_answers_over_few_blocks_are_those_over_many(
    arrivals: list[tuple[Request, int]], slots: int, tokens: int, sizes: dict[str, int],
    rows: int, sharing: str, dropped: set[int],
) -> None:  # fmt: skip
    now = models(slots, tokens, **sizes)
    scheduler = Scheduler(*now, rows, sharing)
    heard = submitted(scheduler, arrivals, dropped)
    steps = 0
    while scheduler.step():
        steps += 1
        assert steps < 4000
        assert len(scheduler.listeners) == sum(not h.done for h in heard)
    assert scheduler.running == scheduler.waiting == 0
    for (chosen, _), got in zip(arrivals, heard, strict=True):
        got.check(alone(chosen))
    for model in now:
        assert model.tables.pool.used == model.tables.pool.shared == 0


def test_the_youngest_gives_way_and_is_the_next_to_begin() -> None:
    scheduler = Scheduler(*models(3, 6 * BLOCK, stop_every=NEVER))
    heard = [Heard() for _ in range(4)]
    chosen = [request(40, [i + 1] * 20, max_rounds=0) for i in range(4)]
    for one, listener in zip(chosen, heard, strict=True):
        scheduler.submit(one, listener)
    scheduler.step()
    # Two blocks each for the prompts; a third would leave none for those that run.
    assert (scheduler.running, scheduler.waiting) == (2, 2)
    while scheduler.running == 2:
        scheduler.step()
    assert scheduler.listeners == heard and not heard[0].done and heard[1].said
    ends: list[int] = []
    while scheduler.step():
        ends += [i for i, h in enumerate(heard) if h.done and i not in ends]
    assert ends[0] == 0
    for one, listener in zip(chosen, heard, strict=True):
        listener.check(alone(one, NEVER))
    assert heard[0].statistics.preempted == 0 < heard[1].statistics.preempted


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6])
def test_what_gives_way_between_rounds_drafts_again(threshold: float) -> None:
    rules = {"max_rounds": 3, "threshold": threshold, "resume_tokens": 9}
    chosen = [request(40, [i + 1] * 12, **rules) for i in range(4)]
    scheduler = Scheduler(*models(3, 5 * BLOCK, stop_every=NEVER))
    heard = [Heard() for _ in chosen]
    for one, listener in zip(chosen, heard, strict=True):
        scheduler.submit(one, listener)
    while scheduler.step():
        pass
    for one, listener in zip(chosen, heard, strict=True):
        listener.check(alone(one, NEVER))
    assert any(heard.statistics.preempted for heard in heard)


def test_one_that_gave_way_can_be_cancelled() -> None:
    scheduler = Scheduler(*models(2, MAX_LEN, stop_every=NEVER))
    heard = [Heard(), Heard()]
    for i, listener in enumerate(heard):
        scheduler.submit(request(40, [i + 1] * 12, max_rounds=0), listener)
    scheduler.step()
    while scheduler.running == 2:
        scheduler.step()
    before = list(heard[1].said)
    scheduler.cancel(heard[1])
    assert (heard[1].reason, heard[1].said) == ("cancelled", before) and before
    while scheduler.step():
        pass
    heard[0].check(alone(request(40, [1] * 12, max_rounds=0), NEVER))


@pytest.mark.parametrize(
    ("sharing", "pass_rows", "expected"),
    # 12 rows and 16 end together after 48.
    [("exact", 12, 0), ("exact", 8, 32), ("exact", 32, 32), ("blocks", 12, 32), ("off", 8, 0)],
)
def test_prompts_that_begin_alike_are_computed_once(
    sharing: str, pass_rows: int, expected: int
) -> None:
    """The last token is always computed: the third block is no prompt's own end."""
    scheduler = Scheduler(*models(2, pass_rows=pass_rows, stop_every=NEVER), MAX_LEN, sharing)
    chosen, heard = request(9, [*COMMON[0], *range(8)], max_rounds=0), [Heard(), Heard()]
    for listener in heard:
        scheduler.submit(chosen, listener)
        scheduler.step()
    # While the first still runs, they own blocks together.
    assert scheduler.memory.usage["target"].shared == expected // BLOCK
    while scheduler.step():
        pass
    assert heard[0].said == heard[1].said == alone(chosen, NEVER).said
    assert [listener.statistics.shared for listener in heard] == [0, expected]


def test_what_is_shared_takes_no_room() -> None:
    """Four answers of 48 tokens, of which 32 are the same, in ten blocks."""
    scheduler = Scheduler(*models(4, 10 * BLOCK, pass_rows=16, stop_every=NEVER), MAX_LEN)
    first = Heard()
    scheduler.submit(request(4, COMMON[0], max_rounds=0), first)
    while scheduler.step():
        pass
    heard = [Heard() for _ in range(4)]
    for i, listener in enumerate(heard):
        scheduler.submit(request(7, [*COMMON[0], i + 1], max_rounds=0), listener)
    scheduler.step()
    scheduler.step()
    assert scheduler.running == 4 and scheduler.memory.usage["target"].used == 6
    while scheduler.step():
        pass
    assert sum(listener.statistics.preempted for listener in heard) == 0


@pytest.mark.parametrize("longer", ["draft prompts", "steps"])
def test_what_begins_has_room_for_its_first_passes(longer: str) -> None:
    """Else it would give way at once, begin again, and keep the others from the device."""
    steps = longer == "steps"
    more = {"slots": 8, "kv_tokens": 80, "prefills": (PrefillSize(64, 2),)}
    target = Fake(mixing(1, NEVER), judge, reach=33 if steps else 2, **more)
    scheduler = Scheduler(target, Fake(mixing(2, NEVER), reach=2, **more))
    heard = [Heard() for _ in range(4)]
    for number, one in enumerate(heard):
        rules = {"max_rounds": 0 if steps else 1, "threshold": 0.0}
        plain = request(12 if steps else 16, [number + 1] * 2, **rules)
        scheduler.submit(replace(plain, draft_prompt=[1] * 34), one)
    while scheduler.step():
        pass
    assert all(one.reason == "length" for one in heard)
    assert sum(one.statistics.preempted for one in heard) <= 6
    assert not any(one.statistics.shared for one in heard)


def test_no_request_names_a_block() -> None:
    """Whatever is asked for, tables have blocks of the pool, or none."""
    target, draft = models(2, 2 * MAX_LEN)
    scheduler = Scheduler(target, draft)
    for prompt in ([1], [1] * 60, [2**31, 2**62, 5], list(range(63))):
        scheduler.submit(request(MAX_LEN - len(prompt), prompt, max_rounds=1), Heard())
        while scheduler.step():
            for model in (target, draft):
                first, end = 1, len(model.blocks)
                values = model.tables.values
                assert ((values == 0) | ((first <= values) & (values < end))).all()
    with pytest.raises(UsageError, match="exceed"):
        scheduler.submit(request(MAX_LEN, [1], max_rounds=0), Heard())


def test_how_to_share_is_one_of_three() -> None:
    with pytest.raises(UsageError, match="share-prefixes 'some': one of exact, blocks, off"):
        Scheduler(*models(1), sharing="some")


@pytest.mark.parametrize("tokens", [0, 240])
def test_steps_have_blocks_in_advance_where_there_are_enough_for_all(tokens: int) -> None:
    target, draft = (Fake(mixing(i), slots=2, max_len=128, kv_tokens=tokens) for i in (1, 2))
    steps = [(slot, Decode(1, 40)) for slot in range(2)]
    Memory(target, draft).reserve_ahead(steps, len(steps))
    # Of 16 blocks both sequences have 8; of 15 not.
    assert draft.tables.rows == ([112, 112] if tokens == 0 else [0, 0])


@given(
    st.lists(st.tuples(st.integers(0, MAX_LEN), st.integers(0, 60)), min_size=1, max_size=4),
    st.booleans(), st.integers(0, 5),
)  # fmt: skip
def test_steps_lack_what_reserving_would_take(
    slots: list[tuple[int, int]], decodes: bool, proposes: int
) -> None:
    target, draft = models(len(slots), proposes=proposes, ahead=1)
    memory, kind = Memory(target, draft), Decode if decodes else Extend
    for slot, (held, _) in enumerate(slots):
        for model in (target, draft):
            model.tables.reserve(slot, held)
    steps = [(slot, kind(1, position)) for slot, (_, position) in enumerate(slots)]
    took = []
    lacking = memory.lacking(steps)
    for slot, call in steps:
        free = target.tables.pool.free + draft.tables.pool.free
        assert memory.reserve(slot, call)
        if target.tables.pool.free + draft.tables.pool.free < free:
            took.append(slot)
    assert lacking == took and not memory.lacking(steps) and not memory.lacking([])


def test_answers_begin_with_blocks_for_their_first_steps() -> None:
    """No answer's first step changes tables while others' steps are on their way."""
    target, draft = (Fake(mixing(i), slots=2, max_len=512) for i in (1, 2))
    scheduler = Scheduler(target, draft)
    scheduler.submit(request(60, [5] * BLOCK, max_rounds=0), Heard())
    scheduler.step()
    rows = list(target.tables.rows)
    assert rows[0] >= BLOCK + 60
    while scheduler.step():
        assert target.tables.rows in (rows, [0, 0])
