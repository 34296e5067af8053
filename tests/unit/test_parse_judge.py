"""Cuts, selection rules and the layout of a verification pass."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parse_runtime.engine.judge import (
    SELECTIONS,
    first_failure,
    longest_accepted,
    sentence_cuts,
    stride_cuts,
    whole_first,
)
from parse_runtime.signature.plan import (
    ALIGNMENT,
    Judged,
    causal,
    packed_verifications,
    verification_plan,
)
from parse_runtime.signature.selection import SelectionRule

judged = st.lists(st.floats(0, 1), max_size=12).flatmap(
    lambda verdicts: st.tuples(
        st.sets(st.integers(1, 99), min_size=len(verdicts), max_size=len(verdicts)).map(sorted),
        st.just(verdicts),
        st.floats(0, 1),
    )
)


@given(judged)
def test_selection_rules_follow_their_definitions(
    case: tuple[list[int], list[float], float],
) -> None:
    cuts, verdicts, threshold = case
    good = [verdict >= threshold for verdict in verdicts]
    assert first_failure(cuts, verdicts, threshold) == max(
        (cut for i, cut in enumerate(cuts) if all(good[: i + 1])), default=0
    )
    assert longest_accepted(cuts, verdicts, threshold) == max(
        (cut for cut, accepted in zip(cuts, good, strict=True) if accepted), default=0
    )


def test_a_verdict_that_is_no_number_is_a_rejection() -> None:
    assert first_failure([4, 8], [0.9, float("nan")], 0.5) == 4
    assert longest_accepted([4, 8], [float("nan"), float("nan")], 0.0) == 0


@given(st.integers(0, 200), st.integers(1, 50))
def test_stride_cuts_rise_to_the_whole_draft(length: int, stride: int) -> None:
    cuts = stride_cuts(length, stride)
    assert cuts == sorted(set(cuts)) and (not cuts or cuts[-1] == length)
    assert all(cut % stride == 0 for cut in cuts[:-1])
    assert len(cuts) == -(-length // stride)


def test_sentence_cuts_are_apart_and_end_with_the_draft() -> None:
    texts = ["One", ".", " Two", "!", "\n", "x", " y", " z"]
    assert sentence_cuts(texts, 1) == [2, 4, 5, 8]
    assert sentence_cuts(texts, 3) == [4, 8]
    assert sentence_cuts([], 1) == []


@given(st.data())
def test_rows_of_a_verification_read_what_a_separate_prefill_would(data: st.DataObject) -> None:
    max_len = 40
    start = data.draw(st.integers(0, 10))
    prefix = data.draw(st.lists(st.integers(0, 9), max_size=20))
    suffix = data.draw(st.lists(st.integers(10, 19), min_size=1, max_size=4))
    total = start + len(prefix)
    cuts = sorted(data.draw(st.sets(st.integers(0, total), max_size=4)))
    length = len(prefix) + len(suffix) * len(cuts) + data.draw(st.integers(0, 5))
    scratch = data.draw(st.integers(max_len + 1, max_len + 20))
    plan, ends = verification_plan(prefix, start, suffix, cuts, length, max_len, scratch)
    tokens, positions, rows, low, own = plan
    position_of = {row: row for row in range(start)} | dict(zip(rows, positions, strict=True))

    def reads(i: int) -> list[int]:
        return [k for k in range(scratch + length) if k < low[i] or own[i] <= k <= rows[i]]

    real = len(prefix) + len(suffix) * len(cuts)
    assert len(set(rows[:real].tolist())) == real
    for i in range(real):
        assert sorted(position_of[k] for k in reads(i)) == list(range(positions[i] + 1))
    for cut, end in zip(cuts, ends, strict=True):
        first = end + 1 - len(suffix)
        assert tokens[first : end + 1].tolist() == suffix
        seen = reads(int(end))
        assert seen[:cut] == list(range(cut)) and min(seen[cut:]) > max_len
    assert np.all(rows[real:] == max_len) and all(
        reads(i) == [max_len] for i in range(real, length)
    )


@given(st.lists(st.integers(0, 9), max_size=20), st.integers(0, 10), st.integers(0, 5))
def test_without_a_suffix_the_last_token_has_no_row(
    prefix: list[int], start: int, more: int
) -> None:
    one = Judged(prefix, start, [], [start + len(prefix)])
    assert one.rows == max(len(prefix) - 1, 0)
    plan, _ = verification_plan(*one, one.rows + more, 40, 41)
    expected = causal(prefix[:-1], start, one.rows + more, 40)
    if prefix and more:
        expected[0, one.rows] = prefix[-1]  # what follows the last row, in padding
    assert np.array_equal(plan, expected)
    # With one it is read.
    assert one._replace(suffix=[11]).rows == len(prefix) + 1


verifications = st.builds(
    Judged, st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(0, 10),
    st.lists(st.integers(10, 19), max_size=5), st.sets(st.integers(1, 10), max_size=4).map(sorted),
)  # fmt: skip


@given(st.lists(verifications, min_size=1, max_size=4), st.integers(0, 40))
def test_verifications_of_a_pass_have_the_rows_that_they_have_alone(
    judged: list[Judged], more: int
) -> None:
    max_len, scratch = 50, 64
    aligned = [-(-one.rows // ALIGNMENT) * ALIGNMENT for one in judged]
    length = sum(aligned) + more
    plan, begins, ends = packed_verifications(judged, length, max_len, scratch)
    assert begins == [sum(aligned[:i]) for i in range(len(judged))]
    kept: set[int] = set()
    padding = np.ones(length, bool)
    for one, begin, last in zip(judged, begins, ends, strict=True):
        alone, expected = verification_plan(*one, one.rows, max_len, scratch)
        here = plan[:, begin : begin + one.rows]
        # Rows of suffixes are as far behind those of others as their verifications are.
        moved = alone + np.where(alone >= scratch, begin, 0)
        assert np.array_equal(here[:2], alone[:2]) and np.array_equal(here[2:], moved[2:])
        assert (last - begin).tolist() == expected.tolist()
        own = {row for row in here[2].tolist() if row >= scratch}
        assert kept.isdisjoint(own) and max(own, default=0) < scratch + length
        kept |= own
        padding[begin : begin + one.rows] = False
    _, _, rows, cuts, starts = plan[:, padding]
    assert np.all(rows == max_len) and np.all(cuts == 0) and np.all(starts > rows)
    if judged[-1].rows > 1:
        with pytest.raises(ValueError):
            packed_verifications(judged, begins[-1] + judged[-1].rows - 1, max_len, scratch)


def test_padding_is_never_read_by_others() -> None:
    plan, _ = verification_plan([1, 2], 3, [7], [4, 5], 8, 16, 17)
    _, _, rows, cuts, starts = plan[:, :4]
    assert not np.any((cuts > 16) | ((starts <= 16) & (rows >= 16)))
    with pytest.raises(ValueError):
        verification_plan([1, 2, 3], 0, [7], [1], 2, 16, 17)


@given(
    verdicts=st.lists(st.integers(0, 4).map(lambda n: n / 4), min_size=1, max_size=6),
    threshold=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    rule=st.sampled_from(list(SelectionRule)),
)
def test_a_whole_draft_is_kept_by_its_own_verdict_else_its_prefixes_are_judged(
    verdicts: list[float], threshold: float, rule: SelectionRule
) -> None:
    cuts = list(range(5, 5 + len(verdicts)))
    found = whole_first(cuts, verdicts, threshold, rule)
    if verdicts[-1] >= threshold:
        assert found == cuts[-1]
    else:
        assert found == SELECTIONS[rule](cuts[:-1], verdicts[:-1], threshold) < cuts[-1]
