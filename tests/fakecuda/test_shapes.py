"""Templates of one shape share a graph: nodes of another function are made anew."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from foundryrt.bundle.schema import Variable
from foundryrt.session import Session
from tests.fakecuda import bundle as counters

CHAIN = counters.templates()[0]
KEYS = [("step", {"by": 11}), ("step", {"by": 25}), ("last", {})]


def alike() -> list[dict]:
    """The chain, and the chain with its kernels swapped and another value set first."""
    other = counters._columns(
        [
            (counters.MEMSET, counters.NO_FUNCTION, [counters.IO, 0, 7, 4, counters.COUNT, 1], b""),
            (counters.KERNEL, 1, counters._launch(counters.IO, 100),
             counters._skeleton(packed=True)),
            (counters.KERNEL, 0, counters._launch(counters.IO, 200),
             counters._skeleton(packed=False, attributes=1)),
            (counters.EMPTY, counters.NO_FUNCTION, [], b""),
            (counters.MEMCPY, counters.NO_FUNCTION,
             [counters.IO, counters.STATE, 0, 0, 0, 64, 1, 0, 0, 0, 64, 1, 64, 1, 1], b""),
        ],
        [(0, 1, 0), (1, 2, 1), (2, 3, 0), (3, 4, 0)],
    )  # fmt: skip
    return [CHAIN, other]


@pytest.fixture
def path(tmp_path, fake, monkeypatch):
    monkeypatch.setattr(counters, "templates", alike)
    # The binaries' variables differ, so that it shows which function a node calls.
    offset = Variable(kernel=0, name="offset", data=np.uint32(5).tobytes())
    return counters.write(tmp_path / "alike.fdy", variables=[offset])


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_each_graph_computes_its_own_whatever_came_before(path, fake, order):
    name, key = KEYS[order[0]]
    with Session.open(path, first=(name, key)) as session:
        for index in order[1:]:
            session.graph(KEYS[index][0], **KEYS[index][1]).launch()
        session.wait()
        for index in order:
            session.write("state", np.zeros(counters.COUNT, np.int32))
            session.graph(KEYS[index][0], **KEYS[index][1]).launch()
            values = session.read("state")
            memset = int.from_bytes(b"\7\7\7\7", "little")
            assert (values == (11 + 5, 25 + 5, memset + 300 + 5)[index]).all(), (index, values)
    assert fake.live == ""


def test_a_failure_on_the_way_leaves_nothing(path, fake):
    def use() -> None:
        with Session.open(path, first=KEYS[0]) as session:
            session.wait()

    assert len(fake.fail_each(use)) > 40
