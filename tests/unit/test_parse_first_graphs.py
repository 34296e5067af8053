"""The graphs that a bundle's answers need first."""

from __future__ import annotations

from math import prod

from hypothesis import given
from hypothesis import strategies as st

from foundryrt.protocols import GraphKey
from parse_runtime.graphs.first import Key, first_graphs, stands_in
from parse_runtime.kernels.rows import STREAMED_ROWS

sizes = st.integers(1, 130)
bundles = st.builds(
    lambda *found: [graph for graphs in found for graph in graphs],
    *(
        st.sets(sizes, min_size=1).map(lambda s, n=name, k=key: [(n, {k: size}) for size in s])
        for name, key in (("t.prefill", "len"), ("t.decode", "batch"), ("d.decode", "batch"))
    ),
    st.sets(st.tuples(sizes, sizes)).map(
        lambda s: [("t.verify", {"len": length, "cuts": cuts}) for length, cuts in s]
    ),
    st.sets(sizes, min_size=1).map(lambda s: [("t.extend", {"batch": b, "len": 5}) for b in s]),
)


@given(bundles, st.integers(1, 200))
def test_running_answers_go_on_with_them_and_none_is_there_in_vain(
    graphs: list[GraphKey], running: int
) -> None:
    needed, order = first_graphs(graphs, running)
    assert all(graph in graphs for graph in order)
    assert all(order.count(graph) == 1 for graph in order)
    assert order[: len(needed)] == needed

    for name in ("t.decode", "d.decode", "t.extend"):
        known = [key for other, key in graphs if other == name]
        fitting = min(
            (key for key in known if int(key["batch"]) >= running),
            key=rows, default=max(known, key=rows),
        )  # fmt: skip
        alike = max((key for key in known if stands_in(key, fitting)), key=rows)
        assert [key for other, key in needed if other == name] in ([fitting], [fitting, alike])
        assert (name, alike) in needed
        # Every batch has one that stands in for it before any prefill is made.
        for key in known:
            larger = [one for one in known if rows(one) >= rows(key) and stands_in(one, key)]
            assert any((name, one) in order for one in larger)
    assert all("batch" in key for _, key in needed)
    others = [graph for graph in graphs if "batch" not in graph[1]]
    assert order[-len(others) :] == others


def rows(key: Key) -> int:
    return prod(map(int, key.values()))


def test_rows_have_the_same_bits_where_kernels_are_the_same() -> None:
    for larger, key, same in (
        ({"batch": STREAMED_ROWS}, {"batch": 1}, True),
        ({"batch": STREAMED_ROWS + 1}, {"batch": STREAMED_ROWS}, False),
        ({"batch": 256}, {"batch": STREAMED_ROWS + 1}, True),
        ({"batch": 16, "len": 4}, {"batch": 1, "len": 4}, True),
        ({"batch": 17, "len": 4}, {"batch": 1, "len": 4}, False),
    ):
        assert stands_in(larger, key) is same


def test_mixed_passes_come_last() -> None:
    graphs: list[GraphKey] = [
        ("t.prefill", {"len": 64, "prompts": 2}), ("t.decode", {"batch": 4}),
        ("t.mixed", {"len": 64, "prompts": 2, "batch": 4}),
    ]  # fmt: skip
    assert first_graphs(graphs, 1) == ([graphs[1]], [graphs[1], graphs[0], graphs[2]])
