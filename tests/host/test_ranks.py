"""Bundles for several ranks: recorded by one process, opened alone and together."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from foundryc.recorder import Recorder
from foundryrt.bundle.ranks import BOUND_MS, MISSING, slab_region
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import Region
from foundryrt.errors import FoundryError, UsageError
from foundryrt.host.arena import Arena
from foundryrt.host.backend import HostBackend
from foundryrt.session import Session

WIDTH = 100


def record(path: Path, world: int, capacity: int = 256) -> Path:
    """Graphs of 1, 2 and 3 steps, each of which adds up the ranks' x and keeps the sum in state."""
    with Recorder("host", "ranks", {"world": world}) as r:
        x = r.register("x", torch.zeros(WIDTH), role="input")
        total = r.register("total", torch.zeros(WIDTH), role="state")
        ranks = r.ranks(world, capacity)
        for steps in (1, 2, 3):
            with r.graph("add", steps=steps) as graph:
                for _ in range(steps):
                    parts = ranks.all_gather(x)
                    total += parts.sum(0)
                graph.output("parts", parts)
        r.save(path)
    return path


def inputs(rank: int) -> np.ndarray:
    return np.random.default_rng(rank).integers(-9, 9, WIDTH).astype(np.float32)


def tensor(backend: HostBackend, name: str, graph: int = -1):
    tensors = backend._bundle.manifest.tensors
    return next(t for t in tensors if t.name == name and t.graph == graph)


@pytest.mark.parametrize("capacity", [256, 1000])
def test_alone_a_bundle_gives_its_own_part(tmp_path: Path, capacity: int) -> None:
    bundle = Bundle.open(record(tmp_path / "two.fdy", 2, capacity))
    for rank in range(2):
        backend = HostBackend(bundle, rank=rank)
        backend.write(tensor(backend, "x"), inputs(rank))
        for graph in range(3):
            backend.launch(graph)
            parts = backend.read(tensor(backend, "parts", graph))
            np.testing.assert_array_equal(parts[rank], inputs(rank))
            np.testing.assert_array_equal(parts[1 - rank], 0)
        np.testing.assert_array_equal(backend.read(tensor(backend, "total")), 6 * inputs(rank))
        assert backend.read(tensor(backend, "ranks")).tolist() == [rank, 1, 0, BOUND_MS]


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_that_joined_give_the_same_sums(tmp_path: Path, world: int) -> None:
    bundle = Bundle.open(record(tmp_path / "bundle.fdy", world))
    backends = [HostBackend(bundle, rank=rank) for rank in range(world)]
    slabs = {rank: backend.export_slab() for rank, backend in enumerate(backends)}
    for rank, backend in enumerate(backends):
        assert backend.export_slab() == slabs[rank]
        backend.join({other: fd for other, fd in slabs.items() if other != rank})
        backend.write(tensor(backend, "x"), inputs(rank))
    order = [0, 2, 1, 0, 0, 2, 1, 2]

    def follow(backend: HostBackend) -> np.ndarray:
        for graph in order:
            backend.launch(graph)
        return backend.read(tensor(backend, "total"))

    with ThreadPoolExecutor(world) as threads:
        totals = list(threads.map(follow, backends))
    wanted = sum(inputs(rank) for rank in range(world)) * sum(graph + 1 for graph in order)
    for backend, total in zip(backends, totals, strict=True):
        np.testing.assert_array_equal(total, wanted)
        assert backend.read(tensor(backend, "ranks"))[MISSING] == 0
        backend.close()
        with pytest.raises(OSError):
            os.fstat(slabs[backend._rank])


@pytest.mark.parametrize(("here", "each"), [(1, 1), (7, 3), (64, 4)])
def test_ranks_share_the_processors(tmp_path: Path, monkeypatch, here: int, each: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(here))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    bundle = Bundle.open(record(tmp_path / "two.fdy", 2))
    assert bundle.manifest.producer["threads"] == "4"
    first, second = (HostBackend(bundle, rank=rank) for rank in range(2))
    first.join({1: second.export_slab()})
    assert first.require(0)._threads == each


def test_words_in_another_sessions_memory_stay(tmp_path: Path) -> None:
    path = record(tmp_path / "two.fdy", 2)
    with Session.open(path) as session:
        session.write("ranks", np.array([1, 1, 0, 5], np.int32))
        with Session.open(path, place={"state": session}) as other:
            assert other.read("ranks").tolist() == [1, 1, 0, 5]
        with Session.open(path) as other:
            assert other.read("ranks").tolist() == [0, 1, 0, BOUND_MS]


def test_the_mapping_outlives_the_descriptors(tmp_path: Path) -> None:
    bundle = Bundle.open(record(tmp_path / "two.fdy", 2))
    first, second = (HostBackend(bundle, rank=rank) for rank in range(2))
    region, copy = slab_region(bundle.manifest), os.dup(second.export_slab())
    first.join({1: copy})
    os.close(copy)
    second.close()
    at = region.base + region.peer_stride + 5
    first.arena.bytes[at] = 42
    assert second.arena.bytes[at] == 42
    assert not first.arena.bytes[region.base : at].any()


def test_a_bundle_is_the_same_whichever_rank_records_it(tmp_path: Path, monkeypatch) -> None:
    files = []
    for rank in range(3):
        monkeypatch.setenv("FOUNDRY_RANK", str(rank))
        files.append(record(tmp_path / f"{rank}.fdy", 3).read_bytes())
    assert files[0] == files[1] == files[2]


@pytest.mark.parametrize("rank", ["3", "-1", "one", "", "٣"])
def test_a_rank_that_is_none_cannot_record(tmp_path: Path, monkeypatch, rank: str) -> None:
    monkeypatch.setenv("FOUNDRY_RANK", rank)
    with pytest.raises(UsageError, match="of 3 ranks, give one from 0 to 2"):
        record(tmp_path / "x.fdy", 3)


def test_ranks_are_said_once_and_before_graphs() -> None:
    with Recorder("host", "ranks", {}) as r:
        for world, capacity in ((1, 256), (65, 256), (2, 0), (8, (1 << 30) + 1)):
            with pytest.raises(UsageError):
                r.ranks(world, capacity)
        r.ranks(2, 1)
        with pytest.raises(UsageError, match="once, before the first graph"):
            r.ranks(2, 1)
    with Recorder("host", "ranks", {}) as r:
        with r.graph("empty") as graph:
            graph.output("y", torch.zeros(1))
        with pytest.raises(UsageError, match="once, before the first graph"):
            r.ranks(2, 1)


def test_slabs_cost_a_bundle_one_of_them(tmp_path: Path) -> None:
    bundle = Bundle.open(record(tmp_path / "eight.fdy", 8, 1000))
    region = slab_region(bundle.manifest)
    assert (region.peer_stride, region.size) == (16384, 8 * 16384)  # 2 * 8 * 1024 bytes a slab
    rest = sum(r.size for r in bundle.manifest.regions if r.name != region.name)
    assert bundle.manifest.requirements.memory == rest + region.peer_stride
    assert region.section == -1


def test_a_bundle_without_ranks_is_for_one_process(tmp_path: Path) -> None:
    with Recorder("host", "one", {}) as r:
        with r.graph("empty") as graph:
            graph.output("y", torch.zeros(1))
        r.save(tmp_path / "one.fdy")
    bundle = Bundle.open(tmp_path / "one.fdy")
    assert b"ranks" not in msgspec.msgpack.encode(bundle.manifest)
    with pytest.raises(UsageError, match="captured for 1"):
        HostBackend(bundle, rank=1)
    backend = HostBackend(bundle)
    with pytest.raises(UsageError, match="for one process"):
        backend.export_slab()
    with pytest.raises(UsageError, match="for one process"):
        backend.join({})


def test_exchanges_alone_use_the_slabs(tmp_path: Path) -> None:
    """Another rank could change an index in them after it was checked."""
    with Recorder("host", "ranks", {}) as r:
        ranks = r.ranks(2, 256)
        with r.graph("own") as graph:
            graph.output("y", ranks.slabs[-1:].clone())
        r.save(tmp_path / "own.fdy")
    with (
        Session.open(tmp_path / "own.fdy") as session,
        pytest.raises(FoundryError, match=r"node 0, .* in the ranks' slabs"),
    ):
        session.graph("own").launch()


@pytest.mark.parametrize("given", [{}, {0: 0}, {0: 0, 1: 0}, {0: 0, 1: 0, 2: 0}, {0: 0, 3: 0}])
def test_join_needs_all_others(tmp_path: Path, given: dict[int, int]) -> None:
    backend = HostBackend(Bundle.open(record(tmp_path / "three.fdy", 3)), rank=1)
    with pytest.raises(UsageError, match=r"rank 1 of 3 needs the slabs of ranks \[0, 2\]"):
        backend.join(given)
    assert backend.read(tensor(backend, "ranks")).tolist() == [1, 1, 0, BOUND_MS]


def test_what_is_no_slab_is_not_mapped(tmp_path: Path) -> None:
    region = Region(name="symmetric", base=0, size=8192, peer_stride=4096)
    arena = Arena(8192)
    slab = arena.own_slab(region)
    with pytest.raises(OSError):
        os.ftruncate(slab, 0)
    short = os.memfd_create("short", os.MFD_ALLOW_SEALING)
    open_ended = os.memfd_create("open")
    os.ftruncate(open_ended, 4096)
    with open(tmp_path / "file", "wb") as file:
        for wrong in (short, open_ended, file.fileno(), 1 << 20):
            with pytest.raises(FoundryError, match="came as the slab of rank 1 is none of 4096"):
                arena.map_slab(region, 1, wrong)
    os.close(short)
    os.close(open_ended)
    arena.map_slab(region, 1, slab)
    arena.bytes[4096] = 3
    assert os.pread(slab, 1, 0) == b"\x03"
