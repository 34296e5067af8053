"""Bundles whose memory lies elsewhere than at capture; the stand-in's addresses are real ones."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foundryc.capture import Capture, RegionImage
from foundryc.template import GraphTable
from foundryc.write import write_bundle
from foundryrt.bundle.addresses import Addresses
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import Function, Relocation, Requirements, Tensor, Variable
from foundryrt.bundle.tables import NO_FUNCTION
from foundryrt.errors import FoundryError, UsageError
from foundryrt.session import Session
from tests.fakecuda import bundle as counters

PAGE = 2 << 20
ELSEWHERE = 0x610000000000
KERNEL, MEMCPY, MEMSET = counters.KERNEL, counters.MEMCPY, counters.MEMSET


def relocated(capture: Capture) -> Capture:
    """With a relocation for every address of a node, as an audit finds them."""
    return replace(
        capture,
        relocatable=True,
        graphs=[_relocated(graph, capture.regions) for graph in capture.graphs],
    )


def _relocated(graph: GraphTable, regions: Sequence[RegionImage]) -> GraphTable:
    words, found = [], []
    for kind, start in zip(
        graph.columns["kind"], graph.columns["parameter_start"][:-1], strict=True
    ):
        for at in {KERNEL: (4,), MEMCPY: (0, 1), MEMSET: (0,)}.get(int(kind), ()):
            address = int(graph.words[start + at])
            words.append(int(start) + at)
            found.append(
                next(i for i, r in enumerate(regions) if r.base <= address <= r.base + r.size)
            )
    columns = {
        "relocation_word": np.array(words, np.uint32),
        "relocation_region": np.array(found, np.uint8),
    }
    return replace(graph, columns=graph.columns | columns)


def capture(moved: int = 0):
    """With `result` as an output of every graph, and all memory `moved` bytes further."""
    counters.STATE += moved
    counters.IO += moved
    try:
        made = relocated(counters.capture())
    finally:
        counters.STATE -= moved
        counters.IO -= moved
    state, result = made.tensors
    results = [msgspec.structs.replace(result, graph=number) for number in range(3)]
    return replace(made, tensors=[state, *results])


@pytest.fixture
def path(tmp_path, fake):
    return save(tmp_path / "counters.fdy", relocated(counters.capture()))


def save(path: Path, capture: Capture) -> Path:
    write_bundle(path, capture, "counters", {}, {})
    return path


def run(session: Session) -> list[int]:
    """Every graph once; what they leave in `state` and `result`."""
    for name, key in (("step", {"by": 11}), ("step", {"by": 25}), ("last", {})):
        session.graph(name, **key).launch()
    return [*session.read("state"), *session.read("result")]


def test_one_bundle_is_open_twice_in_a_process(path, fake):
    with Session.open(path) as first, Session.open(path) as second:
        assert first.tensor("state").address == counters.STATE
        assert second.tensor("state").address != counters.STATE
        assert run(first) == run(second)
        first.graph("step", by=11).launch()
        assert (first.read("state") == second.read("state") + 11).all()
    assert fake.live == ""


def test_the_base_can_be_asked_for(path, fake):
    with Session.open(path, base=ELSEWHERE) as session:
        assert session.tensor("state").address == ELSEWHERE
        assert session.tensor("result").address == ELSEWHERE + counters.REGION
        moved = run(session)
        with pytest.raises(FoundryError, match=rf"{ELSEWHERE:#x} to .* at another base"):
            Session.open(path, base=ELSEWHERE)
    with Session.open(path) as session:
        assert run(session) == moved
    for base in (ELSEWHERE + 4096, ELSEWHERE + 1):
        with pytest.raises(UsageError, match="no multiple of 0x2000000"):
            Session.open(path, base=base)
    assert fake.live == ""


def test_a_bundle_without_relocations_stays_where_it_was(tmp_path, fake):
    path = counters.write(tmp_path / "c.fdy")
    with pytest.raises(UsageError, match=r"lies at 0x6.* cannot be moved to 0x61"):
        Session.open(path, base=ELSEWHERE)
    with Session.open(path) as session:
        expected = run(session)
        with pytest.raises(
            FoundryError, match=r"are taken in this process.*captured to stay there"
        ):
            session.beside(path, lambda own, other: [])

        def stopped_first(own: Bundle, other: Bundle) -> list[str]:
            session.close()
            return []

        with session.beside(path, stopped_first) as again:
            assert run(again) == expected
    assert fake.live == ""


def test_addresses_in_memory_and_in_variables_move(tmp_path, fake):
    # A foreign region holds [address of `state`, a number]; a module variable points behind both.
    foreign = 0x7F1234000000 + 512
    words = struct.pack("<QQI", counters.STATE + 8, counters.STATE + 8, 7000)
    capture = relocated(counters.capture())
    capture = replace(
        capture,
        requirements=Requirements(memory=6 << 20, architecture="sm_90", driver=13000),
        regions=[
            *capture.regions,
            RegionImage(
                "foreign 0", foreign, 64, lambda: [words], owner="cuFFT",
                relocations=(Relocation(offset=0, region=0),),
            ),
        ],
        tensors=[
            *capture.tensors,
            Tensor(
                name="words", region=2, offset=0, dtype="int64", shape=(2,), strides=(1,),
                role="constant",
            ),
        ],
        variables=[
            Variable(
                kernel=1, name="table", data=struct.pack("<Q", foreign + 16),
                relocations=(Relocation(offset=0, region=2),),
            )
        ],
    )  # fmt: skip
    path = save(tmp_path / "f.fdy", capture)
    for base in (None, ELSEWHERE):
        with Session.open(path, base=base) as session:
            state = session.tensor("state").address
            assert session.read("words").tolist() == [state + 8, counters.STATE + 8]
            assert session.tensor("words").address % 4096 == foreign % 4096
            session.graph("last").launch()
            assert (session.read("result") == 1000 + 7000).all()
    with Session.open(path) as first, Session.open(path) as second:
        assert first.tensor("words").address != second.tensor("words").address
        second.graph("last").launch()
        assert (second.read("result") == 8000).all()
    assert fake.live == ""


def test_addresses_behind_long_zeros_move(tmp_path, fake):
    # A foreign region: 4 MiB of zeros, [address of `state`, a number], 2 MiB, the same again.
    first, size = 4 << 20, (6 << 20) + 64
    words = struct.pack("<QQ", counters.STATE + 8, counters.STATE + 8)
    second = first + len(words) + (2 << 20)
    capture = relocated(counters.capture())
    capture = replace(
        capture,
        requirements=Requirements(memory=16 << 20, architecture="sm_90", driver=13000),
        regions=[
            *capture.regions,
            RegionImage(
                "foreign 0", 0x7F1234000000, size,
                lambda: [bytes(first), words, bytes(2 << 20), words], owner="cuFFT",
                relocations=tuple(Relocation(offset=at, region=0) for at in (first, second)),
            ),
        ],
        tensors=[
            *capture.tensors,
            Tensor(
                name="all", region=2, offset=0, dtype="int64", shape=(size // 8,), strides=(1,),
                role="state",
            ),
        ],
    )  # fmt: skip
    path = save(tmp_path / "f.fdy", capture)
    assert path.stat().st_size < 64 << 10
    for base in (None, ELSEWHERE):
        with Session.open(path, base=base) as session:
            here = [session.tensor("state").address + 8, counters.STATE + 8]
            found = session.read("all")
            assert np.flatnonzero(found).tolist() == [
                at // 8 + word for at in (first, second) for word in (0, 1)
            ]
            assert found[found != 0].tolist() == here * 2
    assert fake.live == ""


def _edited(capture: Capture, **columns: object) -> Capture:
    graphs = [replace(g, columns=g.columns | columns) for g in capture.graphs[:1]]
    return replace(capture, graphs=graphs)


@pytest.fixture
def unchecked(monkeypatch):
    """Whoever writes these bundles does not look at their addresses."""
    monkeypatch.setattr(Addresses, "_check", lambda *_: None)


@pytest.mark.parametrize("word", [2, 6, 9, 11 + 10, 0])
def test_a_relocation_of_what_is_no_address_is_refused(tmp_path, fake, unchecked, word):
    # Words: 6 of a memset, 4 launch dimensions and 2 of arguments of each kernel, 15 of a copy.
    capture = _edited(relocated(counters.capture()), relocation_word=[word], relocation_region=[0])
    path = save(tmp_path / "c.fdy", capture)
    with Session.open(path) as session:  # where nothing has moved, only its place is looked at
        if word == 0:
            session.wait()
        else:
            with pytest.raises(FoundryError, match="a relocation is of no address"):
                session.wait()
    with (
        Session.open(path, base=ELSEWHERE) as session,
        pytest.raises(FoundryError, match=r"of no address|should be an address in region 0"),
    ):
        session.wait()
    assert fake.live == ""


def test_a_member_s_word_that_is_no_address_of_its_region_is_refused(tmp_path, fake, unchecked):
    capture = relocated(counters.capture())
    words = capture.graphs[1].words.copy()
    words[10] = 12345
    moved = replace(capture.graphs[1], columns=capture.graphs[1].columns | {"parameters": words})
    path = save(tmp_path / "c.fdy", replace(capture, graphs=[capture.graphs[0], moved]))
    with (
        Session.open(path, base=ELSEWHERE) as session,
        pytest.raises(FoundryError, match="step by=25: what should be an address in region 0"),
    ):
        session.wait()
    assert fake.live == ""


@dataclass(frozen=True)
class Step:
    """A node: what it does, to which region, how far in, how much of it."""

    kind: int
    region: int
    other: int
    offset: int
    value: int


SIZES = (256, 4096, PAGE + 512)
steps = st.lists(
    st.builds(
        Step,
        kind=st.sampled_from([KERNEL, MEMCPY, MEMSET]),
        region=st.integers(0, 4),
        other=st.integers(0, 4),
        offset=st.integers(0, 7),
        value=st.integers(1, 200),
    ),
    min_size=1,
    max_size=6,
)


def _graph(name: str, nodes: Sequence[Step], regions: Sequence[RegionImage]) -> GraphTable:
    kinds, words, skeletons = [], [], []
    for node in nodes:
        one, other = (
            regions[i % len(regions)].base + 8 * node.offset for i in (node.region, node.other)
        )
        kinds.append(node.kind)
        skeletons.append(counters._skeleton(packed=False) if node.kind == KERNEL else b"")
        words.append(
            {
                KERNEL: counters._launch(one, node.value),
                MEMSET: [one, 0, node.value, 4, 8, 1],
                MEMCPY: [other, one, 0, 0, 0, 32, 1, 0, 0, 0, 32, 1, 32, 1, 1],
            }[node.kind]
        )
    return GraphTable.of_nodes(
        name, {}, kinds, [0 if k == KERNEL else NO_FUNCTION for k in kinds], skeletons,
        [np.array(w, np.uint64) for w in words],
        [(i, i + 1, 0, 0, 0) for i in range(len(nodes) - 1)],
    )  # fmt: skip


numbers = count()


@settings(
    max_examples=60, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    sizes=st.lists(st.sampled_from(SIZES), min_size=2, max_size=5),
    foreign=st.sets(st.integers(1, 4)),
    graphs=st.lists(steps, min_size=1, max_size=4),
    move=st.integers(1, 1 << 14),
)
def test_random_graphs_do_the_same_wherever_their_regions_lie(
    tmp_path, fake, sizes, foreign, graphs, move
):
    names = iter(("weights", "state", "io", "scratch"))
    regions = []
    for index, size in enumerate(sizes):
        first = bytes([index + 1]) * 64
        if index in foreign:
            base = 0x7E0000000000 + index * (1 << 30) + 256 * index
            regions.append(
                RegionImage(f"foreign {index}", base, size, lambda f=first: [f], owner="x")
            )
        else:
            base = counters.BASE + index * (1 << 32)
            name = next(names, None)
            if name is None:
                return
            regions.append(RegionImage(name, base, size, lambda f=first: [f]))
    capture = relocated(
        Capture(
            target="cuda",
            requirements=Requirements(memory=sum(sizes), architecture="sm_90", driver=13000),
            producer={},
            regions=regions,
            tensors=[
                Tensor(
                    name=region.name, region=index, offset=0, dtype="uint8", shape=(region.size,),
                    strides=(1,), role="state",
                )
                for index, region in enumerate(regions)
            ],
            functions=[Function(name="add", kernel=0)],
            graphs=[_graph(f"g{i}", nodes, regions) for i, nodes in enumerate(graphs)],
            kernels=[b"FAKE add\0"],
        )
    )  # fmt: skip
    path = save(tmp_path / f"{next(numbers)}.fdy", capture)

    def results(base: int | None) -> list[bytes]:
        with Session.open(path, base=base) as session:
            if base is not None:
                assert session.tensor("weights").address == base
            for name, _ in session.graphs:
                session.graph(name).launch()
            return [session.read(region.name).tobytes() for region in regions]

    assert results(None) == results(ELSEWHERE + move * (32 << 20))
    path.unlink()
    assert fake.live == ""
