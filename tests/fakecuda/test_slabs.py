"""The ranks' slabs on the stand-in driver: placing, exporting, importing, undoing."""

from __future__ import annotations

import ctypes
import mmap
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from foundryc.capture import RegionImage
from foundryc.write import write_bundle
from foundryrt.bundle.ranks import BOUND_MS, first_words
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import Ranks, Region, Requirements, Tensor
from foundryrt.cuda.arena import Arena
from foundryrt.cuda.backend import CudaBackend
from foundryrt.cuda.device import open_device
from foundryrt.cuda.driver import driver
from foundryrt.errors import FoundryError, UsageError
from foundryrt.undo import Undo
from tests.fakecuda import bundle as counters
from tests.fakecuda.test_placement import ELSEWHERE, relocated

STRIDE, WORLD = 4 << 20, 3
AT = counters.BASE + 4 * counters.REGION


def region(stride: int = STRIDE) -> Region:
    return Region(name="symmetric", base=AT, size=WORLD * stride, peer_stride=stride)


@pytest.fixture
def undo(fake):
    with Undo() as opened:
        yield opened
    assert fake.live == ""


def arena(undo: Undo, rank: int = 0, stride: int = STRIDE) -> Arena:
    needs = Requirements(memory=0, architecture="sm_90", driver=13000)
    return Arena(open_device(driver(), 0, needs, undo), (region(stride),), undo, rank=rank)


def byte(address: int) -> int:
    return ctypes.string_at(address, 1)[0]


def write(path: Path, world: int = WORLD) -> Path:
    """The counters for several ranks."""
    capture = relocated(counters.capture())
    words = Tensor(
        name="ranks", region=1, offset=64, dtype="int32", shape=(4,), strides=(1,), role="state"
    )
    io = RegionImage("io", counters.IO, 4096)
    slabs = RegionImage("symmetric", AT, world * STRIDE, peer_stride=STRIDE)
    write_bundle(
        path,
        replace(
            capture,
            requirements=Requirements(memory=8 << 20, architecture="sm_90", driver=13000),
            regions=[capture.regions[0], io, slabs],
            tensors=[*capture.tensors, words],
            ranks=Ranks(world=world, words=2),
        ),
        "counters", {}, {},
    )  # fmt: skip
    return path


@pytest.fixture
def bundle(tmp_path, fake):
    with Bundle.open(write(tmp_path / "ranks.fdy")) as opened:
        yield opened


def words(backend: CudaBackend, bundle: Bundle) -> list[int]:
    return backend.tensor(bundle.manifest.tensors[2]).read().tolist()


@pytest.mark.parametrize("rank", range(WORLD))
def test_the_own_slab_alone_has_memory(undo, fake, rank):
    made = arena(undo, rank)
    assert made.base(region()) == AT
    assert made.memory(region()) == (AT + rank * STRIDE, STRIDE)
    assert byte(AT + rank * STRIDE) == byte(AT + (rank + 1) * STRIDE - 1) == 0xA5
    assert fake.live == "context 1 mapping 1 memory 1 reservation 1 "
    with pytest.raises(UsageError, match="no region 'symmetric' has memory here"):
        made.mapped("symmetric")


def test_the_own_slab_is_exported_as_a_file_descriptor(undo, fake):
    made = arena(undo, rank=1)
    descriptor = made.slabs.export()
    assert made.slabs.export() == descriptor
    assert os.fstat(descriptor).st_size == STRIDE
    with mmap.mmap(descriptor, STRIDE) as seen:
        seen[7] = 42
        assert byte(AT + STRIDE + 7) == 42
    undo.close()
    with pytest.raises(OSError):
        os.fstat(descriptor)


def test_a_slab_that_pages_cannot_hold_is_refused(fake):
    with Undo() as undo, pytest.raises(FoundryError, match="4096 bytes is no multiple of 2097152"):
        arena(undo, stride=4096)
    assert fake.live == ""


def slab(value: int) -> int:
    """Memory as another rank exports it."""
    descriptor = os.memfd_create("slab")
    os.ftruncate(descriptor, STRIDE)
    os.pwrite(descriptor, bytes([value]), 9)
    return descriptor


@pytest.fixture
def slabs():
    made = {rank: slab(10 + rank) for rank in (0, 2)}
    yield made
    for descriptor in made.values():
        os.close(descriptor)


def test_slabs_of_others_lie_at_their_places(undo, fake, slabs):
    made = arena(undo, rank=1)
    made.slabs.join(slabs)
    assert [byte(AT + rank * STRIDE + 9) for rank in range(WORLD)] == [10, 0xA5, 12]
    ctypes.memset(AT + 2 * STRIDE + 11, 77, 1)
    assert os.pread(slabs[2], 1, 11) == bytes([77])
    assert fake.live == "context 1 mapping 3 memory 3 reservation 1 "


def test_any_failing_call_undoes_everything(fake, slabs):
    def use() -> None:
        with Undo() as undo:
            made = arena(undo, rank=1)
            made.slabs.export()
            made.slabs.join(slabs)

    fake.fail(0)
    use()
    total, descriptors = fake.calls, len(os.listdir("/proc/self/fd"))
    for call in range(1, total + 1):
        fake.fail(call)
        with pytest.raises(FoundryError, match="CUDA_ERROR_OUT_OF_MEMORY"):
            use()
        assert fake.live == "" and len(os.listdir("/proc/self/fd")) == descriptors
    assert total > 20


def test_a_join_that_failed_leaves_the_own_slab_alone(undo, fake, slabs):
    made = arena(undo, rank=1)
    before, failures = fake.live, 0
    for call in range(1, 20):
        fake.fail(call)
        try:
            made.slabs.join(slabs)
            break
        except FoundryError:
            failures += 1
            assert fake.live == before
    assert failures == 8  # import, properties, map, access, of two
    assert [byte(AT + rank * STRIDE + 9) for rank in range(WORLD)] == [10, 0xA5, 12]


def test_a_gpu_that_cannot_be_reached_is_named(undo, fake, slabs):
    made = arena(undo, rank=1)
    before = fake.live
    fake.peer(device=3, access=False)
    with pytest.raises(
        FoundryError,
        match=r"the slab of rank 0 lies on GPU 3 \(fake\), which GPU 0 \(fake\) cannot reach",
    ):
        made.slabs.join(slabs)
    assert fake.live == before
    fake.peer(device=3, access=True)
    made.slabs.join(slabs)


def test_what_is_no_memory_is_refused(undo, fake):
    made = arena(undo, rank=1)
    with pytest.raises(
        FoundryError, match=r"cuMemImportFromShareableHandle \(the slab of rank 2\)"
    ):
        made.slabs.join({2: 1 << 20})


@pytest.mark.parametrize("rank", range(WORLD))
def test_a_backend_alone_knows_its_rank(bundle, fake, rank):
    backend = CudaBackend(bundle, rank=rank)
    assert words(backend, bundle) == list(first_words(rank) if rank else (0, 0, 0, 0))
    assert byte(AT + rank * STRIDE) == byte(AT + (rank + 1) * STRIDE - 1) == 0
    backend.launch(0)
    assert (backend.tensor(bundle.manifest.tensors[1]).read() == counters.INITIAL + 11).all()
    backend.close()
    assert fake.live == ""


def test_a_backend_joins(bundle, fake, slabs):
    backend = CudaBackend(bundle, rank=1)
    with mmap.mmap(backend.export_slab(), STRIDE) as own:
        assert not any(own[:])
        backend.join(slabs)
        assert words(backend, bundle) == [1, WORLD, 0, BOUND_MS]
        assert [byte(AT + rank * STRIDE + 9) for rank in range(WORLD)] == [10, 0, 12]
    backend.close()
    assert fake.live == ""


def test_slabs_move_with_the_arena(bundle, fake, slabs):
    backend = CudaBackend(bundle, rank=1, base=ELSEWHERE)
    backend.join(slabs)
    at = AT - counters.STATE + ELSEWHERE
    assert [byte(at + rank * STRIDE + 9) for rank in range(WORLD)] == [10, 0, 12]
    backend.launch(0)
    assert (backend.tensor(bundle.manifest.tensors[1]).read() == counters.INITIAL + 11).all()
    backend.close()
    assert fake.live == ""


def test_a_backend_that_cannot_join_stays_alone(bundle, fake, slabs):
    backend = CudaBackend(bundle, rank=1)
    backend.wait()  # the graphs that are made meanwhile make calls, too
    for given in ({}, {0: 1}, slabs | {1: 1}, slabs | {3: 1}):
        with pytest.raises(UsageError, match=r"rank 1 of 3 needs the slabs of ranks \[0, 2\]"):
            backend.join(given)
    fake.fail(1)
    with pytest.raises(FoundryError):
        backend.join(slabs)
    fake.fail(0)
    assert words(backend, bundle) == [1, 1, 0, BOUND_MS]
    backend.join(slabs)
    backend.close()
    assert fake.live == ""


def test_words_in_a_tensors_memory_stay(bundle, fake):
    held = (ctypes.c_uint8 * (4096 + 256))()
    start = -(-ctypes.addressof(held) // 256) * 256
    ctypes.memset(start + 64, 5, 16)
    interface = {"shape": (4096,), "typestr": "|u1", "data": (start, False), "version": 3}
    memory = SimpleNamespace(__cuda_array_interface__=interface)
    backend = CudaBackend(bundle, rank=1, place={"io": memory})
    assert words(backend, bundle) == [0x05050505] * 4
    backend.close()


def test_ranks_and_memory_that_are_none_are_refused(bundle, tmp_path, fake):
    with pytest.raises(UsageError, match="rank 3: the bundle was captured for 3"):
        CudaBackend(bundle, rank=3)
    with pytest.raises(UsageError, match="'symmetric' is the ranks' own"):
        CudaBackend(bundle, place={"symmetric": object()})
    assert fake.live == ""
    with Bundle.open(counters.write(tmp_path / "one.fdy")) as one:
        with pytest.raises(UsageError, match="rank 1: the bundle was captured for 1"):
            CudaBackend(one, rank=1)
        backend = CudaBackend(one)
        for use in (backend.export_slab, lambda: backend.join({})):
            with pytest.raises(UsageError, match="for one process"):
                use()
        backend.close()
