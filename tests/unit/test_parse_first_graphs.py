"""The graphs that a bundle's answers need first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from parse_runtime.graphs.first import first_graphs

sizes = st.integers(1, 9)
bundles = st.builds(
    lambda *found: [graph for graphs in found for graph in graphs],
    *(
        st.sets(sizes, min_size=1).map(lambda s, n=name, k=key: [(n, {k: size}) for size in s])
        for name, key in (("t.prefill", "len"), ("t.decode", "batch"), ("d.decode", "batch"))
    ),
    st.sets(st.tuples(sizes, sizes)).map(
        lambda s: [("t.verify", {"len": length, "cuts": cuts}) for length, cuts in s]
    ),
)


@given(bundles, st.integers(1, 12))
def test_they_do_for_every_pass_and_are_no_more_than_that(graphs, running) -> None:
    found = first_graphs(graphs, running)
    assert all(graph in graphs for graph in found)
    assert len({(name, *key.items()) for name, key in found}) == len(found)

    def does_for(name, key, other) -> bool:
        return name == other[0] and all(key[size] >= other[1][size] for size in key)

    for graph in graphs:
        assert any(does_for(name, key, graph) for name, key in found)
    # The batches that run come first, and padding is all that they have more.
    batches = found[:2]
    assert [name for name, _ in batches] == ["t.decode", "d.decode"]
    for name, key in batches:
        known = [other["batch"] for other_name, other in graphs if other_name == name]
        assert key["batch"] == min((b for b in known if b >= running), default=max(known))
    for name, key in found[2:]:
        others = [graph for graph in graphs if graph != (name, key)]
        assert not any(does_for(other, size, (name, key)) for other, size in others)
