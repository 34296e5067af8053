"""Templates and members, without torch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundryc.template import GraphTable, share
from foundryrt.bundle.tables import (
    MEMBER_COLUMNS,
    TEMPLATE_COLUMNS,
    MemberTable,
    TemplateTable,
    pack,
    unpack,
)

NODES = {
    "kinds": [0, 0, 0],
    "functions": [0, 1, 0],
    "skeletons": [b"a", b"", b"bc"],
    "parameters": [np.array(words, np.uint64) for words in ([1, 2], [], [3])],
    "edges": [(0, 1, 0, 0, 0), (1, 2, 0, 0, 0)],
}


def graph(**changes: object) -> GraphTable:
    return GraphTable.of_nodes("g", {}, **(NODES | changes))  # type: ignore[arg-type]


BASE = graph()


def with_words(*words: int) -> GraphTable:
    values = np.array(words, np.uint64)
    return graph(parameters=[values[:2], values[2:2], values[2:]])


def restored(template: GraphTable, columns: object) -> list[int]:
    tables = []
    for own, kinds in ((template.columns, TEMPLATE_COLUMNS), (columns, MEMBER_COLUMNS)):
        described, data = pack(own, kinds)  # type: ignore[arg-type]
        tables.append(unpack(described, kinds, memoryview(data)))
    checked = TemplateTable(**tables[0])
    checked.check(3, 2, 2, 0)
    return MemberTable(**tables[1]).apply(checked).tolist()


@given(st.lists(st.tuples(*[st.integers(0, 2**64 - 1)] * 3), min_size=1, max_size=6))
def test_members_restore_every_word(words: list[tuple[int, int, int]]) -> None:
    templates, members = share([with_words(*three) for three in words])
    assert len(templates) == 1
    for member, three in zip(members, words, strict=True):
        assert restored(templates[member.template], member.columns) == list(three)


def test_only_differing_words_are_kept() -> None:
    _, members = share([BASE, with_words(1, 9, 3)])
    assert [list(np.asarray(m.columns["word"])) for m in members] == [[], [1]]


@pytest.mark.parametrize(
    "other",
    [
        graph(kinds=[0, 0, 4]),
        graph(functions=[0, 1, 1]),
        graph(skeletons=[b"a", b"b", b"c"]),
        graph(parameters=[*NODES["parameters"][:2], np.zeros(2, np.uint64)]),
        graph(edges=[(0, 1, 0, 0, 1), (1, 2, 0, 0, 0)]),
    ],
)
def test_any_difference_but_words_is_another_topology(other: GraphTable) -> None:
    templates, members = share([BASE, other, BASE])
    assert len(templates) == 2
    assert [m.template for m in members] == [0, 1, 0]
