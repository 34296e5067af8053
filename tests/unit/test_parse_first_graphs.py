"""The graphs that a bundle's answers need first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from foundryrt.protocols import GraphKey
from parse_runtime.graphs.first import first_graphs, stands_in
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
def test_no_pass_waits_with_them_and_none_is_there_in_vain(
    graphs: list[GraphKey], running: int
) -> None:
    found = first_graphs(graphs, running)
    assert all(graph in graphs for graph in found)
    assert all(found.count(graph) == 1 for graph in found)

    def does_for(graph: GraphKey, other: GraphKey) -> bool:
        (name, key), (other_name, other_key) = graph, other
        if name != other_name or "batch" not in key:
            return graph == other
        return int(key["batch"]) >= int(other_key["batch"]) and stands_in(key, other_key)

    for graph in graphs:
        assert any(does_for(one, graph) for one in found)
    # The batches that run come first, in the graph that is made for them.
    batches, others = found[:3], found[3:]
    assert [name for name, _ in batches] == ["t.decode", "d.decode", "t.extend"]
    for name, key in batches:
        known = [int(other["batch"]) for other_name, other in graphs if other_name == name]
        assert key["batch"] == min((b for b in known if b >= running), default=max(known))
    for graph in others:
        assert not any(does_for(other, graph) for other in graphs if other != graph)


def test_rows_have_the_same_bits_where_kernels_are_the_same() -> None:
    for larger, key, same in (
        ({"batch": STREAMED_ROWS}, {"batch": 1}, True),
        ({"batch": STREAMED_ROWS + 1}, {"batch": STREAMED_ROWS}, False),
        ({"batch": 256}, {"batch": STREAMED_ROWS + 1}, True),
        ({"batch": 16, "len": 4}, {"batch": 1, "len": 4}, True),
        ({"batch": 17, "len": 4}, {"batch": 1, "len": 4}, False),
    ):
        assert stands_in(larger, key) is same


def test_mixed_passes_are_not_needed_first() -> None:
    graphs: list[GraphKey] = [
        ("t.prefill", {"len": 64, "prompts": 2}), ("t.decode", {"batch": 4}),
        ("t.mixed", {"len": 64, "prompts": 2, "batch": 4}),
    ]  # fmt: skip
    assert first_graphs(graphs, 1) == [graphs[1], graphs[0]]
