"""Who of several ranks takes which digest: one that needs the source, and none much more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from foundryrt.bundle.schema import WeightCopy, WeightRecipe, Weights, WeightSource
from foundryrt.sharing import digested_by, digesters


def manifest(world: int, sources: list[tuple[int, frozenset[int]]]) -> Any:
    """Sources of such lengths, needed by such ranks: by all if there are none."""
    recipes = [
        WeightRecipe(tensor, (WeightCopy(tensor, 1, 1),), rank)
        for tensor, (_, ranks) in enumerate(sources)
        for rank in sorted(ranks) or [-1]
    ]
    weights = Weights(
        sources=tuple(WeightSource(0, "s", 0, length, "uint8", 1, 1) for length, _ in sources),
        recipes=tuple(recipes),
    )
    return SimpleNamespace(
        ranks=SimpleNamespace(world=world) if world > 1 else None, weights=weights
    )


@st.composite
def manifests(draw: st.DrawFn) -> tuple[int, list[tuple[int, frozenset[int]]]]:
    world = draw(st.integers(2, 9))
    ranks = st.frozensets(st.integers(0, world - 1))
    return world, draw(st.lists(st.tuples(st.integers(1, 1000), ranks), max_size=30))


@given(manifests())
def test_each_source_has_one_rank_that_needs_it(made: tuple[int, list[Any]]) -> None:
    world, sources = made
    shares = [digested_by(manifest(world, sources), rank) for rank in range(world)]
    assert sorted(index for share in shares for index in share) == list(range(len(sources)))
    for rank, share in enumerate(shares):
        assert all(not sources[index][1] or rank in sources[index][1] for index in share)


@given(manifests())
def test_no_rank_would_have_less_without_its_last_source_than_another(
    made: tuple[int, list[Any]],
) -> None:
    """That needs it, too: so shares differ by less than a source, where all need all."""
    world, sources = made
    found = digesters(manifest(world, sources))
    taken = [0] * world
    for index, rank in found.items():
        taken[rank] += sources[index][0]
    last = {rank: index for index, rank in found.items()}
    for rank, index in last.items():
        length, ranks = sources[index]
        assert taken[rank] - length <= min(taken[other] for other in ranks or range(world))


@given(manifests())
def test_the_order_of_recipes_does_not_matter(made: tuple[int, list[Any]]) -> None:
    """Nor does anything else that processes could have in another order."""
    one = manifest(*made)
    other = manifest(*made)
    other.weights = msgspec.structs.replace(one.weights, recipes=one.weights.recipes[::-1])
    assert digesters(one) == digesters(other)


def test_what_one_rank_alone_needs_counts_for_what_all_need() -> None:
    made = manifest(2, [(100, frozenset({0})), *[(10, frozenset())] * 12])
    assert digested_by(made, 0) == {0, 11}
    assert digested_by(manifest(1, [(5, frozenset()), (6, frozenset())]), 0) == {0, 1}
