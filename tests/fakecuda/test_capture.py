"""What a cuda recording gives, stored, read back, written as a bundle and launched."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from foundryc.capture_file import load, save
from foundryc.cuda import arena, binaries, finish, foreign, recording
from foundryc.cuda.extract import CapturedFunction, CapturedGraph
from foundryc.template import Columns
from foundryc.weights import TensorFile, whole
from foundryc.write import write_bundle
from foundryrt.bundle.reader import Bundle
from foundryrt.errors import FoundryError, UsageError
from foundryrt.session import Session
from tests.fakecuda import bundle as counters

CUBINS = {1: b"FAKE add\0", 2: b"FAKE more\0"}
USED = {"state": 4 * counters.COUNT, "io": 8 * counters.COUNT}


def test_a_stored_capture_becomes_a_bundle_that_runs(tmp_path, fake):
    save(counters.capture(), tmp_path / "c.capture")
    path = tmp_path / "counters.fdy"
    write_bundle(path, load(tmp_path / "c.capture"), "counters", {"n": 1}, {"f": b"x"})
    with Session.open(path) as session:
        session.graph("step", by=11).launch()
        session.graph("step", by=25).launch()
        assert (session.read("result") == counters.INITIAL + 36).all()
        assert session.file("f") == b"x"
    assert path.read_bytes() == _direct(tmp_path)
    assert fake.live == ""


def _direct(folder) -> bytes:
    path = folder / "direct.fdy"
    write_bundle(path, counters.capture(), "counters", {"n": 1}, {"f": b"x"})
    return path.read_bytes()


def placed(name: str, address: int) -> SimpleNamespace:
    """As a CUDA tensor of 16 counters."""
    return SimpleNamespace(
        name=name, dtype=torch.int32, shape=(counters.COUNT,), stride=lambda: (1,),
        data_ptr=lambda: address, numel=lambda: counters.COUNT, element_size=lambda: 4,
    )  # fmt: skip


class Arena(arena.Arena):
    """An arena whose device memory is made up."""

    def __init__(self) -> None:
        self.base, self.device = arena.BASE, torch.device("cpu")
        self.capacity = arena.CAPACITY
        self.regions = {
            name: arena.Region(index, name, arena.BASE + index * arena.CAPACITY)
            for index, name in enumerate(arena.REGIONS)
        }

    def read(self, address: int, size: int) -> Iterator[memoryview]:
        yield memoryview(bytes([7]) * size)


@pytest.fixture
def recorded(monkeypatch, fake):
    """A recording with `step` adopted twice, and `last`, as if a GPU were here."""
    monkeypatch.setattr(counters, "STATE", arena.BASE + arena.CAPACITY)
    monkeypatch.setattr(counters, "IO", arena.BASE + 2 * arena.CAPACITY)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "fake")
    monkeypatch.setattr(arena.Region, "used", property(lambda self: USED.get(self.name, 0)))
    monkeypatch.setattr(binaries, "module_variables", lambda module, cubin: [])
    monkeypatch.setattr(recording, "foreign_addresses", lambda *_: [])
    monkeypatch.setattr(finish, "compile_source", lambda *_: b"FAKE digest\0")
    monkeypatch.setattr(recording.CudaRecording, "_end_warm_up", lambda self: None)
    made = object.__new__(recording.CudaRecording)
    made.harvest = SimpleNamespace(binary_of=lambda name, module: CUBINS[module])
    made.arena, made.tensors, made.graphs = Arena(), [], []
    made.foreign, made.shared_by = foreign.ForeignMemory(made.arena.base, made.arena.end), None
    made.binaries = binaries.Binaries(made.harvest, made.foreign)
    made.initial = {counters.STATE: counters.INITIAL.view(np.uint8)}
    made.tensors.append(recording.NamedTensor("state", "state", placed("state", counters.STATE)))
    graphs = {1: (counters.capture().graphs[0].columns, (1, 2)),
              2: (counters.capture().graphs[1].columns, (1, 2)),
              3: (_only(counters.capture().graphs[2].columns), (2,))}  # fmt: skip

    def extract(handle: int) -> CapturedGraph:
        columns, modules = graphs[handle]
        names = {1: "add", 2: "more"}
        functions = [CapturedFunction(names[m], m, 160 << 10, -1, True) for m in modules]
        return CapturedGraph(columns, tuple(functions))

    monkeypatch.setattr(recording, "extract", extract)
    result = placed("result", counters.IO)
    made.adopt(1, {"result": result}, "step", by=11)
    made.adopt(2, {"result": result}, "step", by=25)
    made.adopt(3, {}, "last")
    return made


def _only(columns: Columns) -> Columns:
    """The single kernel, numbered as the one function of its graph."""
    return columns | {"function": np.zeros(1, np.uint32)}


def test_adopted_graphs_are_captured_and_run(tmp_path, fake, recorded):
    write_bundle(tmp_path / "a.fdy", recorded.capture(False), "counters", {}, {})
    with Session.open(tmp_path / "a.fdy") as session:
        for by in (25, 11):
            session.graph("step", by=by).launch()
        assert (session.graph("step", by=11).read("result") == counters.INITIAL + 36).all()
        session.graph("last").launch()
        assert (session.graph("step", by=25).read("result") == counters.INITIAL + 1036).all()
    with Bundle.open(tmp_path / "a.fdy") as bundle:
        manifest = bundle.manifest
        assert {"foundryc", "torch", "cuda"} == set(manifest.producer)
        assert manifest.provenance == {"device": "fake"}
        assert len(manifest.templates) == 2 and len(manifest.kernels) == 2
        assert [f.name for f in manifest.functions] == ["add", "more"]
    assert fake.live == ""


def test_zeros_of_the_warm_up_are_not_kept_and_the_rest_begins_the_region(
    tmp_path, monkeypatch, fake, recorded
):
    # In the region `state`: the counters, a cache of 8 MiB, and a number behind it.
    cache, last = counters.STATE + 256, counters.STATE + 256 + (8 << 20)
    memory = {cache: torch.zeros(8 << 20, dtype=torch.uint8), last: torch.full((8,), 7).byte()}
    monkeypatch.setattr(Arena, "bytes_at", lambda self, address, size: memory[address][:size])
    monkeypatch.setitem(USED, "state", (16 << 20))
    for address, data in memory.items():
        recorded._remember(address, data.numel())
    assert sorted(recorded.initial) == [counters.STATE, last]
    write_bundle(tmp_path / "a.fdy", recorded.capture(False), "counters", {}, {})
    assert (tmp_path / "a.fdy").stat().st_size < 64 << 10
    with Session.open(tmp_path / "a.fdy") as session, Bundle.open(tmp_path / "a.fdy") as bundle:
        (region,) = (r for r in bundle.manifest.regions if r.name == "state")
        begun = bytearray(region.size)
        for part in bundle.initial(region):
            begun[part.offset : part.offset + len(part.data)] = part.data
        assert begun[: 4 * counters.COUNT] == counters.INITIAL.tobytes()
        assert begun[4 * counters.COUNT :].strip(b"\0") == bytes([7] * 8)
        assert begun.index(7, 4 * counters.COUNT) == last - counters.STATE
        session.graph("step", by=11).launch()
        assert (session.graph("step", by=11).read("result") == counters.INITIAL + 11).all()


def test_what_points_out_of_the_arena_is_refused(recorded):
    with pytest.raises(
        FoundryError, match="output 'far' lies in memory that the graph does not use"
    ):
        recorded.adopt(1, {"far": placed("far", 0x1000)}, "far")
    assert len(recorded.graphs) == 3
    with pytest.raises(UsageError, match="launch your own"):
        recorded.graphs[0].replay()


@pytest.mark.parametrize("embed", [False, True])
@pytest.mark.parametrize("in_files", [(0, 1), (0,), (1,), ()])
def test_weights_are_stored_if_asked_or_where_they_are_in_no_file(
    tmp_path, monkeypatch, recorded, embed, in_files
):
    from safetensors.numpy import save_file

    save_file({"w": np.arange(counters.COUNT, dtype=np.int32)}, tmp_path / "w.safetensors")
    slices = tuple(whole(TensorFile(tmp_path / "w.safetensors").tensors["w"]))
    base = recorded.arena.regions["weights"].base
    monkeypatch.setitem(USED, "weights", 512)
    for index in range(2):
        tensor = placed(f"w{index}", base + 256 * index)
        own = slices if index in in_files else ()
        recorded.tensors.append(recording.NamedTensor(tensor.name, "weight", tensor, slices=own))
    capture = recorded.capture(embed)
    write_bundle(tmp_path / "w.fdy", capture, "counters", {}, {})
    recipes = () if embed else in_files
    with Bundle.open(tmp_path / "w.fdy") as bundle:
        weights = bundle.manifest.weights
        region = bundle.manifest.regions[0]
        assert [recipe.tensor for recipe in weights.recipes] == [1 + i for i in recipes]
        assert weights.digest_kernel == (2 if recipes else -1)
        assert len(bundle.manifest.kernels) == (3 if recipes else 2)
        # Stored as far as the last that is in no file, with zeros for what a file fills.
        stored = [i for i in range(2) if i not in recipes]
        expected = bytearray(256 * stored[-1] + 64 if stored else 0)
        for index in stored:
            expected[256 * index : 256 * index + 64] = bytes([7]) * 64
        found = b"" if region.section == -1 else bytes(bundle.raw(region.section))
        assert found == expected
