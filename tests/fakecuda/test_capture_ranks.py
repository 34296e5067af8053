"""A capture for several ranks, its memory on the stand-in driver: the same file from every rank."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from foundryc.cuda import arena, binaries, foreign, recording
from foundryc.cuda.extract import CapturedFunction, CapturedGraph
from foundryc.native import check, library
from foundryc.ranks import open_ranks
from foundryc.write import write_bundle
from foundryrt.bundle.ranks import first_words
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import Ranks
from foundryrt.cuda.backend import CudaBackend
from foundryrt.errors import FoundryError, UsageError
from tests.fakecuda import bundle as counters
from tests.fakecuda.test_capture import CUBINS

WORLD, STRIDE = 3, 2 << 20
SLABS = arena.BASE + 4 * arena.CAPACITY


class Arena(arena.Arena):
    """The stand-in's memory, which is the host's, without torch's pool in it."""

    def __init__(self) -> None:
        self.base, self.capacity = arena.BASE, arena.CAPACITY
        self.device = torch.device("cpu")
        self.regions = {
            name: arena.Region(index, name, self.base + index * self.capacity)
            for index, name in enumerate(arena.REGIONS)
        }
        check(library().foundryc_open_arena(self.base, self.capacity, 0))

    def bytes_at(self, address: int, size: int) -> torch.Tensor:
        held = (ctypes.c_uint8 * size).from_address(address)
        return torch.frombuffer(held, dtype=torch.uint8)


@pytest.fixture
def made(monkeypatch, fake):
    monkeypatch.setattr(counters, "STATE", arena.BASE + arena.CAPACITY)
    monkeypatch.setattr(counters, "IO", arena.BASE + 2 * arena.CAPACITY)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "fake")
    monkeypatch.setattr(binaries, "module_variables", lambda module, cubin: [])
    monkeypatch.setattr(recording, "foreign_addresses", lambda *_: [])
    monkeypatch.setattr(recording.CudaRecording, "_end_warm_up", lambda self: None)
    columns = counters.capture().graphs[0].columns
    functions = [CapturedFunction(n, m, 160 << 10, -1, True) for n, m in (("add", 1), ("more", 2))]
    monkeypatch.setattr(recording, "extract", lambda _: CapturedGraph(columns, tuple(functions)))
    made = object.__new__(recording.CudaRecording)
    begin(made)
    yield made
    made.arena.close()
    assert fake.live == ""


def begin(made) -> None:
    made.harvest = SimpleNamespace(binary_of=lambda name, module: CUBINS[module])
    made.arena, made.tensors, made.graphs, made.initial = Arena(), [], [], {}
    made.shared_by = None
    # Copies, as those of a device's memory are.
    made._remember = lambda address, size: made.initial.update(
        {address: np.frombuffer(ctypes.string_at(address, size), np.uint8)}
    )
    made.foreign = foreign.ForeignMemory(made.arena.base, made.arena.end)
    made.binaries = binaries.Binaries(made.harvest, made.foreign)


def record(made, capacity: int = 1000):
    made.register("state", torch.from_numpy(counters.INITIAL.view(np.int32)), "state")
    ranks = open_ranks(made, WORLD, capacity)
    result = made.arena.empty_like(torch.zeros(2 * counters.COUNT, dtype=torch.int32), "io")
    made.adopt(1, {"result": result[: counters.COUNT]}, "step", by=11)
    return ranks


@pytest.mark.parametrize("rank", range(WORLD))
def test_the_own_slab_is_there_and_empty(made, monkeypatch, rank):
    monkeypatch.setenv("FOUNDRY_RANK", str(rank))
    ranks = record(made)
    assert ranks.words.tolist() == list(first_words(rank))
    assert (ranks.world, ranks.capacity, ranks.stride) == (WORLD, 1024, STRIDE)
    assert ranks.slabs.data_ptr() == SLABS and ranks.slabs.numel() == WORLD * STRIDE
    assert not ranks.slabs[rank * STRIDE :][:STRIDE].any()


def test_every_rank_captures_the_same_file(tmp_path, fake, made, monkeypatch):
    files = []
    for rank in range(WORLD):
        monkeypatch.setenv("FOUNDRY_RANK", str(rank))
        record(made)
        write_bundle(tmp_path / "a.fdy", made.capture(False), "counters", {}, {})
        files.append((tmp_path / "a.fdy").read_bytes())
        made.arena.close()
        begin(made)
    assert files[0] == files[1] == files[2]
    made.arena.close()
    with Bundle.open(tmp_path / "a.fdy") as bundle:
        manifest = bundle.manifest
        assert manifest.ranks == Ranks(world=WORLD, words=1)
        (slabs,) = [region for region in manifest.regions if region.peer_stride]
        assert (slabs.name, slabs.base, slabs.size) == ("symmetric", SLABS, WORLD * STRIDE)
        assert slabs.section == -1
        assert manifest.requirements.memory == STRIDE + sum(
            region.size for region in manifest.regions if region is not slabs
        )
        for rank in range(WORLD):
            backend = CudaBackend(bundle, rank=rank)
            backend.launch(0)
            assert (backend.read(manifest.tensors[0]) == counters.INITIAL + 11).all()
            assert backend.read(manifest.tensors[1]).tolist() == list(first_words(rank))
            backend.close()
    assert fake.live == ""


def test_slabs_that_addresses_cannot_hold_are_refused(made):
    with pytest.raises(FoundryError, match="have ranks send less at a time"):
        open_ranks(made, 64, 40 << 20)
    with pytest.raises(UsageError, match="2 to 64"):
        open_ranks(made, 65, 256)
