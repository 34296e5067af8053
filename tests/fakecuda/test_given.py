"""Regions in memory of others: another session's, or a tensor's; on the stand-in driver."""

from __future__ import annotations

import ctypes
import mmap
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from foundryc.capture import RegionImage
from foundryrt.bundle.schema import Tensor
from foundryrt.errors import FoundryError, UsageError
from foundryrt.session import Session
from tests.fakecuda import bundle as counters
from tests.fakecuda import test_weights as weights
from tests.fakecuda.test_placement import PAGE, relocated, save

BYTES = 4 * counters.COUNT


class Array:
    """Memory as CuPy, Numba or another library would show it."""

    def __init__(self, size: int = BYTES, offset: int = 0, **changes: object) -> None:
        self.memory = mmap.mmap(-1, size + offset + 4096)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory)) + offset
        self.__cuda_array_interface__ = {
            "shape": (size,), "typestr": "|u1", "data": (self.address, False), "version": 3,
            "strides": None, **changes,
        }  # fmt: skip

    def numbers(self) -> np.ndarray:
        return np.frombuffer(ctypes.string_at(self.address, BYTES), np.int32)


@pytest.fixture
def path(tmp_path, fake):
    return save(tmp_path / "counters.fdy", relocated(counters.capture()))


def test_a_region_lies_in_a_tensor_and_holds_what_it_held(path, fake):
    array = Array(2 * BYTES)
    ctypes.memmove(array.address, counters.INITIAL.tobytes(), BYTES)
    for launches in (1, 2):
        with Session.open(path, place={"state": array}) as session:
            assert session.tensor("state").address == array.address
            session.graph("step", by=11).launch()
            assert (session.read("result") == counters.INITIAL + 11 * launches).all()
    assert (array.numbers() == counters.INITIAL + 22).all()
    assert fake.live == ""


def needing(capture):
    """The bundle holds nothing of the state: it is an engine's, by name."""
    regions = [
        replace(r, name="cache", owner="an engine", given=True, initial=None)
        if r.name == "state" else r
        for r in capture.regions
    ]  # fmt: skip
    memory = sum(region.size for region in regions if not region.given)
    needs = msgspec.structs.replace(capture.requirements, memory=memory)
    return replace(capture, regions=regions, relocatable=False, requirements=needs)


def test_memory_that_a_bundle_needs_is_taken_wherever_it_lies(tmp_path, fake):
    """Though the bundle itself cannot be moved: what is given is found by relocations."""
    path = save(tmp_path / "needing.fdy", needing(relocated(counters.capture())))
    array = Array()
    ctypes.memmove(array.address, counters.INITIAL.tobytes(), BYTES)
    with Session.open(path, place={"cache": array}) as session:
        session.graph("step", by=11).launch()
        assert (session.read("result") == counters.INITIAL + 11).all()
    assert (array.numbers() == counters.INITIAL + 11).all()
    assert fake.live == ""


def test_memory_that_is_missing_is_asked_for_by_name(tmp_path, fake):
    path = save(tmp_path / "needing.fdy", needing(relocated(counters.capture())))
    words = rf"memory that you have to give: `place` for 'cache' \({BYTES} bytes\)"
    with pytest.raises(UsageError, match=words):
        Session.open(path)
    with pytest.raises(UsageError, match=r"no region 'state'.*there is .*cache"):
        Session.open(path, place={"state": Array()})
    assert fake.live == ""


def test_a_tensor_with_dlpack_is_taken_and_kept(path, fake):
    with Session.open(path) as first:
        own = first.tensor("state")
        assert own.address == counters.STATE
        with Session.open(path, place={"state": own}) as second:
            second.graph("step", by=25).launch()
            second.synchronize()
            assert (first.read("state") == counters.INITIAL + 25).all()
            first.graph("step", by=11).launch()
            first.synchronize()
            assert (second.read("state") == counters.INITIAL + 36).all()
    assert fake.live == ""


def test_a_session_s_region_is_shared_and_outlives_it(path, fake):
    first = Session.open(path)
    second = Session.open(path, place={"state": first})
    assert first.tensor("state").address != second.tensor("state").address
    first.graph("step", by=11).launch()
    first.close()
    second.graph("step", by=25).launch()
    assert (second.read("state") == counters.INITIAL + 36).all()
    assert "memory 2 " in fake.live
    second.close()
    assert fake.live == ""


def device_bytes() -> int:
    """Of memory that is mapped, however often: a device's is files here."""
    sizes: dict[str, int] = {}
    with open("/proc/self/maps") as maps:
        for line in maps:
            if "/memfd:fakecuda" in line:
                (start, end), inode = line.split()[0].split("-"), line.split()[4]
                sizes[inode] = max(sizes.get(inode, 0), int(end, 16) - int(start, 16))
    return sum(sizes.values())


def with_weights(path, value: int):
    """The counters, beside weights of 5 MiB that are in the bundle."""
    made, size = relocated(counters.capture()), 5 << 20
    weights = RegionImage("weights", counters.BASE, size, lambda: [bytes([value]) * size])
    tensor = Tensor(
        name="w", region=2, offset=0, dtype="uint8", shape=(size,), strides=(1,), role="weight"
    )
    requirements = msgspec.structs.replace(made.requirements, memory=size + 4096)
    return save(
        path,
        replace(
            made, regions=[*made.regions, weights], tensors=[*made.tensors, tensor],
            requirements=requirements,
        ),
    )  # fmt: skip


def test_a_bundle_takes_the_place_of_another_in_its_memory(tmp_path, fake):
    path = with_weights(tmp_path / "c.fdy", 7)
    first = Session.open(path)
    first.graph("step", by=11).launch()
    alone = device_bytes()
    assert alone == 5 * PAGE  # weights in three, state, inputs and outputs
    second = first.beside(path, lambda own, other: ["weights", "state"])
    second.wait()
    assert device_bytes() == alone + PAGE  # inputs and outputs
    first.synchronize()
    second.graph("step", by=25).launch()
    second.synchronize()
    assert (first.read("state") == counters.INITIAL + 36).all()
    first.close()
    assert device_bytes() == alone
    second.graph("step", by=25).launch()
    assert (second.read("state") == counters.INITIAL + 61).all()
    assert (second.read("w") == 7).all()
    second.close()
    assert device_bytes() == 0 and fake.live == ""


def test_other_weights_in_the_bundle_are_not_shared(tmp_path, fake):
    paths = [with_weights(tmp_path / f"{value}.fdy", value) for value in (1, 2)]
    with Session.open(paths[0]) as first:
        first.wait()
        before = fake.live
        with pytest.raises(UsageError, match=r"'weights' cannot be shared: .*'stored bytes'"):
            first.beside(paths[1], lambda own, other: ["weights"])
        assert fake.live == before
    assert fake.live == ""


def test_weights_are_loaded_once(tmp_path, fake):
    path = weights.write(tmp_path, relocatable=True)
    first = Session.open(path)
    with Session.open(path, weights=tmp_path / "nowhere", place={"weights": first}) as second:
        first.close()
        second.load_weights()  # they are there already
        for name in weights.SHAPES:
            assert (second.read(name) == weights.expected(name)).all()
    assert fake.live == ""


def test_other_weights_are_not_shared(tmp_path, fake):
    paths = []
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        paths.append(weights.write(folder, relocatable=True, seed=seed))
    with (
        Session.open(paths[0]) as first,
        pytest.raises(UsageError, match=r"'weights' cannot be shared: .*not the same contents"),
    ):
        Session.open(paths[1], place={"weights": first})
    assert fake.live == ""


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"state": Array(BYTES - 1)}, f"needs {BYTES} bytes, the tensor given has {BYTES - 1}"),
        ({"state": Array(offset=8)}, "must begin at a multiple of 256 bytes"),
        ({"state": Array(shape=(8, 8), strides=(16, 1))}, "is not contiguous"),
        ({"state": np.zeros(BYTES, np.uint8)}, "not on CUDA device 0"),
        ({"state": "memory"}, "a str is neither a session nor a tensor on the GPU"),
        ({"kv": Array()}, "no region 'kv' to give memory for; there is state, io"),
    ],
    ids=["small", "unaligned", "strided", "host", "text", "unknown"],
)
def test_what_does_not_fit_is_refused(path, fake, given, words):
    with pytest.raises(UsageError, match=words):
        Session.open(path, place=given)
    assert fake.live == ""


def test_a_bundle_that_cannot_be_moved_takes_memory_at_its_own_addresses_alone(tmp_path, fake):
    path = counters.write(tmp_path / "c.fdy")
    with pytest.raises(UsageError, match=r"'state' lies at .* cannot be moved to"):
        Session.open(path, place={"state": Array()})
    assert fake.live == ""


def test_any_failing_call_undoes_everything(path, fake):
    with Session.open(path) as first:
        first.wait()
        before = fake.live
        total = None
        for call in range(500):
            fake.fail(call)
            try:
                with Session.open(path, place={"state": first}) as second:
                    second.graph("last").launch()
                    second.wait()
            except FoundryError as error:
                assert "CUDA_ERROR_OUT_OF_MEMORY" in str(error)
            else:
                if call:
                    total = call
                    break
            assert fake.live == before
        assert total is not None and total > 20
        fake.fail(0)
    assert fake.live == ""
