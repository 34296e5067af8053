"""More rows of a tensor than at capture, on the stand-in driver."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from foundryc import recorder
from foundryc.capture import RegionImage
from foundryc.capture_file import load
from foundryc.capture_file import save as store
from foundryc.cuda import foreign, proof, recording
from foundryc.cuda.foreign import ForeignMemory
from foundryc.difference import compare
from foundryc.elsewhere import between
from foundryc.report import print_bundle
from foundryc.template import GraphTable
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import Growth, Requirements, Tensor
from foundryrt.errors import FoundryError, UsageError
from foundryrt.session import Session
from tests.fakecuda import bundle as counters
from tests.fakecuda import test_placement as placement
from tests.fakecuda.test_placement import save

KV = 0x7F0000000000
MOVED = (1 << 41) + (10 << 20)
ROWS, MOST, ROW = 3, 1 << 20, 16
"""`MOST` rows take 64 MiB, far beyond what the bundle's foreign memory has been mapped in."""


def tensor(name: str, region: int, *shape: int) -> Tensor:
    strides = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    return Tensor(
        name=name, region=region, offset=0, dtype="int32", shape=shape, strides=strides,
        role="state",
    )  # fmt: skip


def capture(
    growing: Sequence[Growth] = (Growth(tensor=2, most=MOST),), moved: int = 0, rows: int = ROWS,
    increment: int = 5,
):  # fmt: skip
    """Graph `second` adds to the second row of `kv`; other foreign memory lies behind it."""
    made = placement.capture(moved)
    kv, behind = KV + 3 * moved, KV + 3 * moved + (1 << 12)
    graph = GraphTable.of_nodes(
        "second", {}, [counters.KERNEL], [1], [counters._skeleton(packed=True)],
        [np.array(counters._launch(kv + 4 * ROW, increment), np.uint64)],
    )  # fmt: skip
    first = np.arange(ROWS * ROW, dtype=np.int32).tobytes()
    made = replace(
        made,
        requirements=Requirements(memory=6 << 20, architecture="sm_90", driver=13000),
        regions=[
            *made.regions,
            RegionImage("foreign 0", kv, rows * ROW * 4, lambda: [first], owner="tensor kv"),
            RegionImage("foreign 1", behind, 64, lambda: [b"\1" * 64], owner="a library"),
        ],
        tensors=[made.tensors[0], tensor("behind", 3, 16), tensor("kv", 2, rows, ROW)],
        graphs=[*made.graphs, graph],
        growing=growing,
    )
    return placement.relocated(made)


@pytest.fixture
def path(tmp_path, fake):
    store(capture(), tmp_path / "stored")
    return save(tmp_path / "grows.fdy", load(tmp_path / "stored"))


@pytest.mark.parametrize("rows", [None, ROWS, 5, np.int64(6), MOST])
def test_the_same_graphs_use_the_same_rows_of_more(path, fake, rows):
    with Session.open(path, grow=None if rows is None else {"kv": rows}) as session:
        kv = session.tensor("kv")
        assert kv.shape == (rows or ROWS, ROW)
        session.graph("second").launch()
        wanted = np.zeros(kv.shape, np.int32)
        wanted[:ROWS] = np.arange(ROWS * ROW).reshape(ROWS, ROW)
        wanted[1] += 5
        assert (session.read("kv") == wanted).all()
        session.write("kv", np.full(kv.shape, 9, np.int32))
        assert (session.read("behind") == 0x01010101).all()
        session.graph("second").launch()
        assert session.read("kv").sum() == 9 * kv.shape[0] * ROW + 5 * ROW
    assert fake.live == ""


def test_more_rows_may_lie_in_memory_of_others(path, fake):
    with (
        Session.open(path, grow={"kv": 8}) as first,
        Session.open(path, grow={"kv": 8}, place={"foreign 0": first.tensor("kv")}) as second,
    ):
        second.graph("second").launch()
        second.synchronize()
        assert (first.read("kv")[1] == np.arange(ROW, 2 * ROW) + 5).all()
        with pytest.raises(UsageError, match=r"needs 576 bytes, the tensor given has 512"):
            Session.open(path, grow={"kv": 9}, place={"foreign 0": first.tensor("kv")})
    assert fake.live == ""


def test_memory_for_all_rows_is_asked_for(path, fake):
    fake.device(memory=32 << 20)
    with Session.open(path):
        pass
    with pytest.raises(FoundryError, match="memory"):
        Session.open(path, grow={"kv": MOST})
    assert fake.live == ""


@pytest.mark.parametrize(
    ("grow", "words"),
    [
        ({"kv": ROWS - 1}, f"'kv' can have 3 to {MOST} rows, not 2"),
        ({"kv": MOST + 1}, f"'kv' can have 3 to {MOST} rows, not {MOST + 1}"),
        ({"state": 99}, "no tensor 'state' of this bundle grows; there is 'kv'"),
        ({"kv": 8.0}, "tensor 'kv': 8.0 is no number of rows"),
        ({"kv": "8"}, "tensor 'kv': '8' is no number of rows"),
    ],
)
def test_what_is_no_number_of_rows_is_refused(path, fake, grow, words):
    with pytest.raises(UsageError, match=words):
        Session.open(path, grow=grow)
    assert fake.live == ""


def test_the_reason_of_the_capture_is_given(tmp_path, fake):
    why = "graph second, node 0, kernel 'more': argument 1, byte 0 of 4 depends on how many"
    path = save(tmp_path / "a.fdy", capture([Growth(tensor=2, most=MOST, refused=why)]))
    with pytest.raises(UsageError, match=f"'kv' keeps its 3 rows: {why}.*; capture with as many"):
        Session.open(path, grow={"kv": 4})
    with Session.open(path, grow={"kv": ROWS}) as session:
        assert session.tensor("kv").shape == (ROWS, ROW)
    path = save(tmp_path / "b.fdy", capture([]))
    with pytest.raises(UsageError, match="no tensor 'kv' of this bundle grows; none does"):
        Session.open(path, grow={"kv": 4})


def test_diff_tells_how_a_tensor_may_grow(path, tmp_path):
    for growing, shown in (
        ([], ""),
        ([Growth(tensor=2, most=MOST - 1)], f", up to {MOST - 1} rows"),
        ([Growth(tensor=2, most=MOST, refused="why")], ", keeps its rows: why"),
    ):
        other = save(tmp_path / "other.fdy", capture(growing))
        with Bundle.open(path) as a, Bundle.open(other) as b:
            (found,) = compare(a, b)
        assert (found["what"], found["name"]) == ("tensor", "kv")
        assert found["a"].endswith(f"up to {MOST} rows") and found["b"].endswith(shown)


@pytest.mark.parametrize(
    ("growing", "words"),
    [
        ([Growth(tensor=9, most=4)], "a growing tensor refers to entry 9 of 3"),
        ([Growth(tensor=0, most=99)], "'state' grows, and is not alone in a region"),
        ([Growth(tensor=2, most=2)], "'kv' grows to 2 rows"),
        ([Growth(tensor=2, most=1 << 60)], "'kv' grows to 1152921504606846976 rows"),
        ([Growth(tensor=2, most=4)] * 2, "two growing tensors are named '2'"),
    ],
)
def test_a_manifest_that_cannot_grow_is_refused(tmp_path, fake, growing, words):
    with pytest.raises(FoundryError, match=words):
        save(tmp_path / "a.fdy", capture(growing))


class Recording:
    """What it captured; its proof is another test's."""

    def capture(self, embed_weights):
        return capture([Growth(tensor=2, most=MOST, refused="not compared")])

    def rehearse(self, made):
        return proof.Rehearsal([], frozenset())

    def prove(self, path, rehearsal):
        pass


@pytest.mark.parametrize(
    ("grown", "refused"),
    [
        (lambda: capture(rows=MOST), ""),
        (
            lambda: capture(rows=MOST, increment=6),
            "graph second, node 0, kernel 'more': argument 2, byte 0 of 4 depends on how many there"
            " are (0x500000010, with more rows 0x600000010)",
        ),
        (lambda: load("nowhere"), "the capture with more rows failed"),
    ],
    ids=["equal", "other", "failed"],
)
def test_a_recorder_keeps_whether_a_tensor_grows(tmp_path, fake, monkeypatch, grown, refused):
    monkeypatch.setattr(recorder, "_open_recording", lambda *_: Recording())
    others = SimpleNamespace(
        again=capture, moved=lambda: capture(moved=MOVED), grown=grown,
        between=lambda: capture(rows=between(ROWS, MOST), increment=6),
        folder=tmp_path / "others",
    )  # fmt: skip
    others.folder.mkdir()
    told: list[str] = []
    made = recorder.Recorder("cuda", "grows", {}, elsewhere=others, progress=told.append)
    made.save(tmp_path / "kept.fdy")
    with Bundle.open(tmp_path / "kept.fdy") as bundle:
        assert bundle.manifest.growing == (Growth(tensor=2, most=MOST, refused=refused),)
    assert any("nowhere: no such file" in text for text in told) == refused.endswith("failed")


def test_a_growing_tensor_has_memory_of_its_own(monkeypatch):
    made = object.__new__(recording.CudaRecording)
    made.arena, made.tensors, made.graphs = SimpleNamespace(device="cpu"), [], []
    made._pools = []
    made.foreign = ForeignMemory(0, 0)
    pools: list[object] = []
    monkeypatch.setattr(torch.cuda, "MemPool", object)
    monkeypatch.setattr(torch.cuda, "use_mem_pool", lambda p: nullcontext(pools.append(p)))
    placed: list[int] = []
    zeros = torch.zeros

    def watched(*arguments: object, **options: object) -> torch.Tensor:
        tensor = zeros(*arguments, **options)
        placed.append(tensor.data_ptr())
        return tensor

    monkeypatch.setattr(torch, "zeros", watched)
    blocks = lambda: [(1, 8, "torch"), *((address, 512, "torch") for address in placed)]  # noqa: E731
    monkeypatch.setattr(foreign, "torch_blocks", blocks)
    monkeypatch.setattr(foreign, "_read", lambda address, size: np.full(size, 3, np.uint8))
    first = made.register_growing("a", torch.full((2, 4), 7.0), 5)
    monkeypatch.setenv("FOUNDRY_GROWN", "1")
    second = made.register_growing("b", zeros(2, 4), 5)
    assert (first == 7).all() and first.shape == (2, 4)
    assert (second == 0).all() and second.shape == (5, 4)
    assert len(set(map(id, pools))) == 2 and made._pools == pools
    assert [tensor.most for tensor in made.tensors] == [5, 5]
    assert [(r.base, r.size, r.owner, r.data.size) for r in made.foreign.regions] == [
        (first.data_ptr(), 512, "tensor a", 512), (second.data_ptr(), 512, "tensor b", 0),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="two tensors are registered as 'b'"):
        made.register_growing("b", second, 5)


@pytest.mark.parametrize(
    ("role", "shape", "grows"),
    [("weight", (2, 4), 5), ("state", (2, 4), 1), ("state", (0, 4), 1), ("state", (), 1)],
)
def test_only_state_grows(monkeypatch, role, shape, grows):
    monkeypatch.setattr(recorder, "_open_recording", lambda *_: None)
    made = recorder.Recorder("cuda", "grows", {})
    with pytest.raises(UsageError, match=f"x: only state with rows grows, .* to grow to {grows}"):
        made.register("x", torch.zeros(shape), role, grows=grows)


def test_on_host_it_stays(tmp_path):
    with recorder.Recorder("host", "grows", {}) as made:
        kv = made.register("kv", torch.zeros(3, 4), "state", grows=9)
        with made.graph("step") as graph:
            graph.output("sum", kv.sum())
        made.save(tmp_path / "host.fdy")
    with pytest.raises(UsageError, match="no tensor 'kv' of this bundle grows; none does"):
        Session.open(tmp_path / "host.fdy", grow={"kv": 4})


def test_inspect_says_what_grows(path, tmp_path, capsys):
    print_bundle(Bundle.open(path))
    assert f"tensor kv  may have up to {MOST} rows" in capsys.readouterr().out
    growing = [Growth(tensor=2, most=MOST, refused="it is told")]
    print_bundle(Bundle.open(save(tmp_path / "a.fdy", capture(growing))))
    assert "tensor kv  keeps its rows: it is told" in capsys.readouterr().out
