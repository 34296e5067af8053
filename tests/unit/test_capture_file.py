"""Captures in files: read back equal, written to equal bundles, refused where damaged."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from foundryc.capture import Capture, RegionImage
from foundryc.capture_file import load, save
from foundryc.template import GraphTable
from foundryc.weights import TensorFile, WeightSlice
from foundryc.write import write_bundle
from foundryrt.bundle.schema import Function, Ranks, Requirements, Tensor, Variable
from foundryrt.errors import FoundryError

BASE = 0x600000000000
WORD = st.integers(0, 2**64 - 1)
NAME = st.text("aB ζ-", min_size=1, max_size=5).map(lambda text: f"n{text}n")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[WeightSlice]]:
    """By dtype, the slices of a [4, 8] tensor."""
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file({"a": np.arange(64, dtype=np.float32).reshape(8, 8)}, path)
    stored = TensorFile(path).tensors["a"]
    return {"float32": [WeightSlice(stored, 2, 8, row=2), WeightSlice(stored, 2, 8, 4, 2)]}


@st.composite
def graphs(draw: st.DrawFn, number: int) -> list[GraphTable]:
    """Graphs of a few nodes that call `number` functions; some of equal topology."""
    tables = []
    for index in range(draw(st.integers(0, 4))):
        nodes = draw(st.integers(0, 3))
        if tables and draw(st.booleans()):
            same = tables[-1].columns
            words = np.array(draw(st.lists(WORD, min_size=5, max_size=5)), np.uint64)
            changed = {"parameters": np.resize(words, same["parameters"].shape)}
            tables.append(GraphTable("g", {"n": index}, same | changed))
            continue
        edges = [(a, b, 0, 0, draw(st.integers(0, 1))) for a in range(nodes) for b in range(a)]
        tables.append(
            GraphTable.of_nodes(
                "g",
                {"n": index, "form": draw(NAME)},
                kinds=[1] * nodes,
                functions=[draw(st.integers(0, number - 1)) for _ in range(nodes)],
                skeletons=[draw(st.binary(max_size=4)) for _ in range(nodes)],
                parameters=[
                    np.array(draw(st.lists(WORD, max_size=4)), np.uint64) for _ in range(nodes)
                ],
                edges=[(b, a, *ports) for a, b, *ports in edges],
            )
        )
    return tables


@st.composite
def captures(draw: st.DrawFn) -> Capture:
    kernels = draw(
        st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=3, unique=True)
    )
    kernel = st.integers(0, len(kernels) - 1)
    functions = [
        Function(name=f"f{i}", kernel=draw(kernel)) for i in range(draw(st.integers(1, 3)))
    ]
    regions = []
    for index, name in enumerate(("weights", "state", "io")):
        parts = draw(st.none() | st.lists(st.binary(max_size=200), max_size=3))
        initial = None if parts is None else lambda parts=parts: parts
        regions.append(
            RegionImage(name, BASE + (index << 36), 4096, initial, compress=draw(st.booleans()))
        )
    world = draw(st.sampled_from([0, 2, 3]))
    if world:
        slabs = RegionImage("symmetric", BASE + (9 << 36), world * 8192, peer_stride=8192)
        regions.append(slabs)
    words = {"shape": (4,), "strides": (1,), "dtype": "int32"}
    shape = {"shape": (4, 8), "strides": (8, 1), "dtype": "float32"}
    return Capture(
        target="cuda",
        requirements=Requirements(memory=5 * 4096, architecture="sm_90", driver=13000),
        producer=draw(st.dictionaries(NAME, NAME, max_size=2)),
        regions=regions,
        tensors=[
            Tensor(name="w", region=0, offset=0, role="weight", **shape),
            Tensor(name="ranks", region=1, offset=0, role="state", **words),
        ],
        functions=functions,
        graphs=draw(graphs(len(functions))),
        kernels=kernels,
        variables=[Variable(kernel=draw(kernel), name="v", data=draw(st.binary(min_size=1)))],
        digest_kernel=draw(kernel),
        provenance={"device": draw(NAME)},
        ranks=Ranks(world=world, words=1) if world else None,
        mapped=draw(st.lists(st.tuples(WORD, WORD), max_size=3)),
    )


def facts(capture: Capture) -> dict[str, object]:
    """All that a capture holds, as values that compare."""
    return vars(capture) | {
        "regions": [
            (r.name, r.base, r.size, r.compress, r.peer_stride,
             r.initial and b"".join(r.initial()))
            for r in capture.regions
        ],
        "graphs": [
            (g.name, g.key, {k: (v.dtype.str, v.tolist()) for k, v in g.columns.items()})
            for g in capture.graphs
        ],
        "slices": {index: list(slices) for index, slices in capture.slices.items()},
        **{name: list(getattr(capture, name)) for name in
           ("tensors", "functions", "kernels", "variables", "growing")},
    }  # fmt: skip


@settings(max_examples=60)
@given(capture=captures(), sliced=st.booleans())
def test_what_is_read_back_is_equal_and_makes_the_same_bundle(weights, capture, sliced):
    if sliced:
        capture = replace(capture, slices={0: weights["float32"]})
    with TemporaryDirectory() as folder:
        path = Path(folder)
        save(capture, path / "c.capture")
        restored = load(path / "c.capture")
        for _ in range(2):
            assert facts(restored) == facts(capture)
        for name, one in (("a", capture), ("b", restored)):
            write_bundle(path / name, one, "w", {"n": 1}, {"f": b"file"})
        assert (path / "a").read_bytes() == (path / "b").read_bytes()


def small(initial: bytes = b"first bytes " * 9, compress: bool = False) -> Capture:
    return Capture(
        target="cuda",
        requirements=Requirements(memory=4096),
        producer={},
        regions=[RegionImage("io", BASE, 4096, lambda: [initial], compress)],
        tensors=[],
        functions=[Function(name="f", kernel=0)],
        graphs=[GraphTable.of_nodes("g", {}, [1], [0], [b"s"], [np.arange(9, dtype=np.uint64)])],
        kernels=[b"kernel"],
    )


def read(path: Path) -> None:
    for region in load(path).regions:
        assert region.initial is not None
        b"".join(region.initial())


@pytest.mark.parametrize("compress", [False, True])
def test_any_changed_byte_is_found_and_the_file_named(tmp_path, compress):
    path = tmp_path / "c.capture"
    save(small(compress=compress), path)
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(FoundryError, match=r"c\.capture"):
            read(path)
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(FoundryError, match=r"c\.capture"):
            read(path)


def test_what_is_no_file_is_named(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(FoundryError, match=f"{path}: no such file"):
            load(path)
    with pytest.raises(FoundryError, match=r"nowhere.*: cannot be written"):
        save(small(), tmp_path / "nowhere" / "c.capture")


def test_an_interrupt_amid_storing_leaves_nothing(tmp_path):
    def interrupted() -> Iterator[bytes]:
        yield b"some"
        raise KeyboardInterrupt

    broken = replace(small(), regions=[RegionImage("io", BASE, 4096, interrupted)])
    with pytest.raises(KeyboardInterrupt):
        save(broken, tmp_path / "c.capture")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("compress", [False, True])
def test_a_large_region_is_never_whole_in_memory(tmp_path, compress):
    part, count = 1 << 20, 100

    def initial() -> Iterator[bytes]:
        for number in range(count):
            yield np.full(part // 8, number, np.uint64).tobytes()

    large = replace(small(), regions=[RegionImage("io", BASE, part * count, initial, compress)])
    tracemalloc.start()
    try:
        save(large, tmp_path / "c.capture")
        stored = load(tmp_path / "c.capture").regions[0].initial
        assert stored is not None
        assert sum(memoryview(step).nbytes for step in stored()) == part * count
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()


def test_what_unpacks_to_too_much_is_refused_before_it_fills_the_memory(tmp_path):
    large = bytes(64 << 20)
    bombs = {
        "a region": small(large, compress=True),
        "a kernel": replace(small(), kernels=[large]),
        "the index": replace(small(), producer={"a": "b" * (64 << 20)}),
    }
    for name, capture in bombs.items():
        path = tmp_path / "bomb.capture"
        save(capture, path)
        assert path.stat().st_size < 1 << 16, name
        tracemalloc.start()
        try:
            with pytest.raises(FoundryError, match=r"bomb\.capture.*unpacks to too much"):
                read(path)
            assert tracemalloc.get_traced_memory()[1] < 40 << 20, name
        finally:
            tracemalloc.stop()
