"""Which rows go into prefill passes: in their order, within the room, none for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundryrt.errors import UsageError
from parse_runtime.capture.settings import Settings
from parse_runtime.engine.packing import (
    VERIFY,
    Due,
    holding,
    pack,
    plan,
    room_for,
    shared_by,
    sharing,
)
from parse_runtime.signature.plan import ALIGNMENT, packed
from parse_runtime.signature.sizes import PrefillSize, SharedSize, prompts_of

SIZES = {
    model: [PrefillSize(rows, prompts_of(rows, 64)) for rows in lengths]
    for model, lengths in {"target": (128, 512, 2048), "draft": (16, 64, 100, 256)}.items()
}
sizes = st.tuples(
    st.sets(st.sampled_from([4, 16, 32, 64, 100, 128, 512, 2048]), min_size=1), st.integers(1, 70)
).map(lambda found: [PrefillSize(rows, prompts_of(rows, found[1])) for rows in sorted(found[0])])
lengths = st.lists(st.integers(1, 3000), min_size=1, max_size=70)


@given(lengths, sizes, st.integers(1, 4096))
def test_a_pass_takes_the_oldest_whole_and_of_the_last_a_part(
    left: list[int], sizes: list[PrefillSize], room: int
) -> None:
    size, taken = pack(left, sizes, room)
    assert size in sizes and size.rows <= max(room, sizes[0].rows)
    assert 0 < len(taken) <= size.prompts and taken[:-1] == left[: len(taken) - 1]
    assert 0 < taken[-1] <= left[len(taken) - 1]
    # Another would not have fitted, nor more of the last.
    plan, (begins, ends) = packed([([1] * count, 0) for count in taken], size.rows, 5000)
    assert plan.shape == (5, size.rows) and ends[-1] < size.rows
    assert [end - begin + 1 for begin, end in zip(begins, ends, strict=True)] == taken
    assert all(begin % ALIGNMENT == 0 for begin in begins)
    if taken != left[: len(taken)]:
        assert ends[-1] == size.rows - 1
    elif len(left) > len(taken):
        used = -(-(int(ends[-1]) + 1) // ALIGNMENT) * ALIGNMENT
        assert len(taken) == size.prompts or used >= size.rows
    assert holding(taken, sizes).rows <= size.rows


@pytest.mark.parametrize(
    ("left", "room", "rows", "taken"),
    [
        ([20], 4096, 128, [20]),
        ([128], 4096, 128, [128]),
        ([150], 4096, 512, [150]),
        ([600], 4096, 512, [512]),
        ([1600], 4096, 2048, [1600]),
        ([5000], 4096, 2048, [2048]),
        ([5000], 600, 512, [512]),
        ([5000], 1, 128, [128]),
        ([256] * 9, 4096, 2048, [256] * 8),
        ([300, 300], 512, 512, [300, 192]),
        ([1] * 20, 4096, 512, [1] * 16),
    ],
)
def test_a_pass_is_as_large_as_it_pays(
    left: list[int], room: int, rows: int, taken: list[int]
) -> None:
    size, found = pack(left, SIZES["target"], room)
    assert (size.rows, found) == (rows, taken)


def test_chunks_that_no_pass_takes_are_an_error() -> None:
    assert holding([33, 1], SIZES["target"]).rows == 128
    with pytest.raises(ValueError, match="takes chunks of"):
        holding([2000, 100], SIZES["target"])
    with pytest.raises(ValueError, match="takes chunks of"):
        holding([1, 1], [PrefillSize(100, 1)])


def test_a_capture_says_how_many_prompts_its_passes_take() -> None:
    sizes = Settings(model="m", max_len=64, slots=3, prefill="32,64,100,192").sizes()
    assert sizes.prefills == ((32, 1), (64, 2), (100, 1), (192, 3))
    with pytest.raises(UsageError, match=r"prefill '193': the slots have 192 tokens"):
        Settings(model="m", max_len=64, slots=3, prefill="193")


SHARED = SharedSize(256, 4, 3), SharedSize(768, 8, 8), SharedSize(1024, 4, 4)
rows = st.integers(1, 900)
due = st.builds(Due, st.sampled_from(["target", "draft", VERIFY]), rows) | st.builds(
    Due, st.just(VERIFY), rows, st.sampled_from([SHARED, SHARED[:1], SHARED[1:]])
)


@given(st.lists(due, max_size=30), st.integers(1, 3000))
def test_what_waits_longest_comes_first_and_all_come_in_the_end(
    waiting: list[Due], room: int
) -> None:
    left = list(waiting)
    steps = 0
    while left:
        passes = plan(left, SIZES, room)
        oldest = left[0].rows
        rows = 0
        for number, one in enumerate(passes):
            assert {left[i].kind for i in one.shares} == {one.kind}
            if one.kind == VERIFY:
                assert all(count == left[i].rows for i, count in one.shares.items())
                judged = {i: left[i] for i in one.shares}
                count = next(iter(one.shares.values()))
                if len(judged) > 1:
                    count = min(size.rows for size in SHARED if fits(judged, size))
            else:
                count = holding(list(one.shares.values()), SIZES[one.kind]).rows
            # The first may be too large: something must be done.
            assert number == 0 or rows + count <= room
            rows += count
            for i, share in one.shares.items():
                left[i] = Due(left[i].kind, left[i].rows - share)
            assert one.ends == {i for i in one.shares if not left[i].rows}
        assert left[0].rows < oldest
        assert all(one.rows >= 0 for one in left)
        left = [one for one in left if one.rows]
        steps += 1
        assert steps < 500


def fits(judged: dict[int, Due], size: SharedSize) -> bool:
    """Whether a pass takes all of these."""
    aligned = [-(-one.rows // ALIGNMENT) * ALIGNMENT for one in judged.values()]
    last = list(judged.values())[-1].rows
    return (
        all(size in one.shared for one in judged.values())
        and len(judged) <= size.drafts
        and sum(aligned[:-1]) + last <= size.rows
    )


@given(st.lists(st.integers(1, 400), min_size=1, max_size=12), st.integers(1, 1500))
def test_drafts_share_a_pass_where_that_costs_less_than_a_pass_for_each(
    waiting: list[int], room: int
) -> None:
    due = {i + 5: Due(VERIFY, count, SHARED) for i, count in enumerate(waiting)}
    found = sharing(due, room)
    if found is None:
        return
    size, taken = found
    judged = {number: due[number] for number in taken}
    assert len(taken) > 1 and taken[0] == 5 and taken == sorted(taken)
    assert size in SHARED and size.rows <= room and fits(judged, size)
    assert size.rows <= sum(max(one.rows, 256) for one in judged.values())
    assert fits(judged, shared_by(judged)) and shared_by(judged).rows <= size.rows


@pytest.mark.parametrize(
    ("waiting", "room", "expected"),
    [
        ([60], 4096, None),
        ([60, 60], 4096, (256, [0, 1])),
        ([60, 60], 255, None),
        ([100, 100, 100], 4096, (768, [0, 1, 2])),
        ([100, 200, 100], 512, (256, [0, 2])),
        ([60] * 9, 4096, (768, list(range(8)))),
        ([300, 300], 4096, None),  # 768 rows cost more than 600.
        ([384, 384], 4096, (768, [0, 1])),
        ([900, 100], 4096, None),
        ([250, 250, 250, 250], 4096, (1024, [0, 1, 2, 3])),
    ],
)
def test_a_verify_pass_takes_as_many_as_it_pays_for(
    waiting: list[int], room: int, expected: tuple[int, list[int]] | None
) -> None:
    found = sharing({i: Due(VERIFY, count, SHARED) for i, count in enumerate(waiting)}, room)
    assert (found and (found[0].rows, found[1])) == expected


def test_drafts_that_no_pass_takes_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"no verify pass takes drafts of \[200, 900\] rows"):
        shared_by({0: Due(VERIFY, 200, SHARED), 1: Due(VERIFY, 900, SHARED)})


def test_a_capture_says_how_many_drafts_share_its_verify_passes() -> None:
    text = "64x4,128x8,64x4x8,256x8x2,256x8x9"
    for slots, expected in (
        (1, ()), (2, ((64, 4, 2), (256, 8, 2))), (9, ((64, 4, 2), (256, 8, 2), (256, 8, 8))),
    ):  # fmt: skip
        sizes = Settings(model="m", max_len=128, slots=slots, verify=text).sizes()
        assert sizes.verify == ((64, 4), (128, 8)) and sizes.shared == expected
        # Evidence of as many tokens as in a pass of one draft.
        assert sizes.scored == (60, 120)
        assert [sizes.scored_by(*size) for size in expected] == [60, 120, 120][: len(expected)]
        # Suffixes begin with a tile of keys.
        assert sizes.scratch_row == (192 if expected else 144)
        assert sizes.slot_rows == sizes.scratch_row + (256 if expected else 128)
        assert sizes.fixed_blocks == 1 + sizes.slot_rows // 16 - 9


@pytest.mark.parametrize(
    "verify", ["64x4x2", "64x4,100x4x2", "64x4,64x4x1", "64x4,64x8x2", "64x4,64x4x2x2", "64"]
)
def test_unfit_sizes_of_verify_passes_are_refused(verify: str) -> None:
    with pytest.raises(UsageError, match="verify"):
        Settings(model="m", max_len=128, slots=4, verify=verify)


def test_a_verification_that_has_no_room_waits_and_holds_up_what_is_younger() -> None:
    waiting = [Due("target", 100), Due(VERIFY, 600), Due("draft", 10), Due("target", 28)]
    together = ("target", {0: 100, 3: 28})

    def planned(room: int) -> list[tuple[str, dict[int, int]]]:
        return [(one.kind, dict(one.shares)) for one in plan(waiting, SIZES, room)]

    assert planned(512) == planned(1000) == [together]
    assert planned(1112) == [together, (VERIFY, {1: 600})]
    assert planned(1128) == [together, (VERIFY, {1: 600}), ("draft", {2: 10})]


def test_room_is_a_quarter_while_little_is_due_beside_others() -> None:
    due = [Due("target", 300), Due(VERIFY, 200)]
    assert room_for(due, 2048, True) == 512
    assert room_for(due, 2048, False) == room_for([Due("target", 2048)], 2048, True) == 2048
    # A smaller pass would take as long.
    assert room_for(due, 768, True) == 256 and room_for(due[:1], 400, True) == 256
    # Drafts that share a pass take no longer than one by one.
    assert room_for(due[1:], 2048, True) == 2048 == room_for([], 2048, True)
