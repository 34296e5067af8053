"""The memory plan: never two live buffers in one place, shared where possible, always the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from foundryc.host.plan import ALIGNMENT, Lifetime, align, plan

lifetimes = st.lists(
    st.builds(
        lambda nbytes, first, length: Lifetime(nbytes, first, first + length),
        st.integers(0, 5000),
        st.integers(0, 30),
        st.integers(0, 12),
    ),
    max_size=40,
)


@given(lifetimes)
def test_live_buffers_never_overlap(buffers: list[Lifetime]) -> None:
    made = plan(buffers)
    for i, a in enumerate(buffers):
        start = made.offsets[i]
        assert start % ALIGNMENT == 0
        assert start + a.nbytes <= made.size
        for j, b in enumerate(buffers[:i]):
            if a.first <= b.last and b.first <= a.last and a.nbytes and b.nbytes:
                other = made.offsets[j]
                assert start + a.nbytes <= other or other + b.nbytes <= start


@given(lifetimes)
def test_never_larger_than_without_sharing_and_the_same_every_time(buffers: list[Lifetime]) -> None:
    made = plan(buffers)
    assert made.size <= sum(align(b.nbytes) for b in buffers)
    assert made == plan(list(buffers))


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=20))
def test_disjoint_lifetimes_share_one_place(sizes: list[int]) -> None:
    made = plan([Lifetime(nbytes, 2 * i, 2 * i + 1) for i, nbytes in enumerate(sizes)])
    assert set(made.offsets) == {0}
    assert made.size == align(max(sizes))


def test_the_tightest_hole_is_taken() -> None:
    long = [Lifetime(1024, 0, 9), Lifetime(896, 0, 9), Lifetime(768, 0, 9)]
    holes = [Lifetime(960, 0, 1), Lifetime(832, 0, 1)]
    made = plan([*long, *holes, Lifetime(700, 5, 6)])
    # Both places are free again at node 5; the smaller one wastes less.
    assert made.offsets[5] == made.offsets[4]
