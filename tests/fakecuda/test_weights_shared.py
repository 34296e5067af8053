"""Ranks that load together: each source is read whole and digested by one of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from foundryc.weights import TensorFile, WeightSlice, slices
from foundryrt import native
from foundryrt.bundle.reader import Bundle
from foundryrt.cuda import weights
from foundryrt.cuda.backend import CudaBackend
from foundryrt.cuda.plan import Plan
from foundryrt.cuda.upload import CHUNK
from foundryrt.errors import FoundryError, UsageError
from foundryrt.ranks.followers import Followers
from foundryrt.session import Session
from foundryrt.sharing import digested_by
from foundryrt.weight_files import file_states
from foundryrt.weights import WeightsChanged
from tests.fakecuda.test_weights_ranks import WORLD, divided, write
from tests.unit.file_clock import wait_for_a_step

ROWS, COLUMNS = 900, 1500
"""Of which a buffer holds 349 rows, and a bit."""
SHAPES = {"rows": (300, COLUMNS), "columns": (ROWS, 500), "all": (ROWS, COLUMNS),
          "turned": (4, 4)}  # fmt: skip
VALUES = {
    name: np.random.default_rng(seed).standard_normal((ROWS, COLUMNS)).astype(np.float32)
    for seed, name in enumerate(("rows", "columns", "all"))
} | {"turned": np.arange(4 * 12, dtype=np.float32).reshape(4, 12)}
ROLLED = 400
"""Rows of `columns` that come last on the device."""
BYTES = VALUES["rows"].nbytes


@pytest.fixture(params=[8 << 20, 1 << 20], ids=["whole", "blocks"])
def path(tmp_path: Path, fake, monkeypatch, request) -> Iterator[Path]:
    monkeypatch.setattr(slices, "_BLOCK", request.param)
    save_file(VALUES, tmp_path / "w.safetensors")
    stored = TensorFile(tmp_path / "w.safetensors").tensors
    own = divided(stored)
    own["columns"] = [
        replace(part, rows=rows, source_row=first, row=(first - ROLLED) % ROWS)
        for part in own["columns"]
        for first, rows in ((0, ROLLED), (ROLLED, ROWS - ROLLED))
    ]
    own["turned"] = [
        WeightSlice(stored["turned"], 2, 4, source_row=1 - half, source_row_step=2,
                    source_column=4 * rank, row=2 * half, rank=rank)
        for rank in range(WORLD) for half in (0, 1)
    ]  # fmt: skip
    yield write(tmp_path, own, SHAPES)
    assert fake.live == ""


def part(name: str, rank: int) -> np.ndarray:
    whole = VALUES[name]
    if name == "columns":
        return np.roll(np.split(whole, WORLD, 1)[rank], -ROLLED, 0)
    if name == "all":
        return whole
    if name == "turned":
        return whole[[1, 3, 0, 2], 4 * rank : 4 * rank + 4]
    return np.split(whole, WORLD, 0)[rank]


@contextmanager
def opened(path: Path, rank: int, shared: bool = True) -> Iterator[CudaBackend]:
    with Bundle.open(path) as bundle:
        backend = CudaBackend(bundle, rank=rank, load_weights=False, shared=shared)
        try:
            yield backend
        finally:
            backend.close()


def load(backend: CudaBackend, check: bool = True) -> int:
    """The bytes that a load reads."""
    states = file_states(backend._bundle.manifest, None)
    backend._preparation.join()
    before = bytes_read()
    backend.load_weights(check, states)
    return bytes_read() - before


def bytes_read() -> int:
    """By this process so far, by any call that reads a file."""
    with open("/proc/self/io") as file:
        return int(file.readline().split()[1])


def right(backend: CudaBackend, rank: int) -> bool:
    tensors = {each.name: each for each in backend._bundle.manifest.tensors}
    return all(np.array_equal(backend.read(tensors[name]), part(name, rank)) for name in SHAPES)


@pytest.mark.parametrize("check", [True, False])
def test_a_rank_reads_whole_what_it_digests_and_else_its_own(path, check):
    read = []
    for rank in range(WORLD):
        with opened(path, rank) as backend:
            load(backend, check)  # imports what it needs
            read.append(load(backend, check))
            assert right(backend, rank)
    # /proc/self/io itself is read, too.
    columns = BYTES // 3 * (WORLD - 1) + BYTES if check else BYTES
    wanted = BYTES + columns + WORLD * BYTES
    assert wanted <= sum(read) < wanted + 3000
    blocks = len(digested_by(backend._bundle.manifest, 0)) > 3
    assert not blocks or max(read) - min(read) < 1 << 20


def test_a_rank_alone_reads_all_that_it_needs(path):
    with opened(path, 1, shared=False) as backend:
        load(backend)
        assert BYTES // 3 + 2 * BYTES <= load(backend) < BYTES // 3 + 2 * BYTES + 1000
        assert right(backend, 1)


def test_each_digest_is_taken_once(path, monkeypatch):
    taken: Counter[str] = Counter()
    check = weights.check_digest

    def counted(source, digest, path):
        taken[source.name] += 1
        check(source, digest, path)

    monkeypatch.setattr("foundryrt.cuda.weights.check_digest", counted)
    monkeypatch.setattr("foundryrt.weights.check_digest", counted)
    for rank in range(WORLD):
        with opened(path, rank) as backend:
            load(backend)
    with Bundle.open(path) as bundle:
        assert taken == Counter(source.name for source in bundle.manifest.weights.sources)


def test_a_session_of_all_ranks(path):
    with (
        Followers.start(path, WORLD, [0] * WORLD) as followers,
        Session.open(path, followers=followers) as session,
    ):
        assert all(np.array_equal(session.read(name), part(name, 0)) for name in SHAPES)
        session.load_weights()
        for name in SHAPES:
            spoil(path, name)
        session.load_weights(check=False)
        with pytest.raises(FoundryError, match="is not what the bundle was captured with"):
            session.load_weights()


def spoil(path: Path, name: str) -> None:
    stored = TensorFile(path.parent / "w.safetensors").tensors[name]
    with open(stored.path, "r+b") as changed:
        changed.seek(stored.offset + stored.length // 2)
        changed.write(b"\xff\xff")


@pytest.mark.parametrize("name", SHAPES)
def test_one_rank_finds_a_wrong_byte(path, name):
    file = path.parent / "w.safetensors"
    spoil(path, name)
    failed = []
    for rank in range(WORLD):
        with opened(path, rank) as backend:
            try:
                load(backend)
            except WeightsChanged as error:
                assert name in str(error) and str(file) in str(error)
                failed.append(rank)
            load(backend, check=False)
    assert len(failed) == 1


def test_the_device_takes_the_digests_of_one_ranks_share(path):
    shares: list[set[int]] = []
    for rank in range(WORLD):
        with opened(path, rank) as backend:
            manifest = backend._bundle.manifest
            own = digested_by(manifest, rank)
            plan = Plan.of(manifest, backend._arena, True, rank, own)
            assert plan.ranges.keys() | plan.streamed <= own
            names = {index: source.name for index, source in enumerate(manifest.weights.sources)}
            assert all(names[index].startswith("columns") for index in plan.streamed)
            assert not any(names[index].startswith("columns") for index in plan.ranges)
            shares.append(own)
    assert sorted(index for share in shares for index in share) == sorted(names)


def test_another_file_than_rank_0s_is_refused(path):
    file = path.parent / "w.safetensors"
    with opened(path, 1) as backend:
        known = file_states(backend._bundle.manifest, None)
        file.rename(file.with_suffix(".old"))
        file.write_bytes(file.with_suffix(".old").read_bytes())
        with pytest.raises(WeightsChanged, match=r"w\.safetensors is not the file that rank 0"):
            backend.load_weights(True, known)
        assert not backend.read(backend._bundle.manifest.tensors[0]).any()
        backend.load_weights(True, file_states(backend._bundle.manifest, None))
        assert right(backend, 1)


def test_a_file_that_changes_while_it_is_read_is_refused(path, monkeypatch):
    file = path.parent / "w.safetensors"
    with opened(path, 1) as backend:
        files = backend.uploader.files

        def late(ranges):
            files(ranges)
            wait_for_a_step(file)
            os.utime(file, ns=(0, 0))  # as whoever writes to it hides that

        monkeypatch.setattr(backend.uploader, "files", late)
        with pytest.raises(WeightsChanged, match=r"or was changed meanwhile"):
            load(backend)


def test_without_rank_0s_word_nothing_is_trusted(path):
    with opened(path, 1) as backend, pytest.raises(UsageError, match="need the files' states"):
        backend.load_weights()


@pytest.mark.parametrize("size", [1000, (300 << 10) + 1, CHUNK])
@pytest.mark.parametrize("width", [1, 1996, 5999, 6000])
def test_rows_that_lie_apart_arrive_together(path, size, width):
    """In chunks that end anywhere in a row."""
    stored = TensorFile(path.parent / "w.safetensors").tensors["all"]
    pitch = 4 * COLUMNS
    with opened(path, 0) as backend, open(stored.path, "rb") as file:
        backend.uploader.reserve()
        buffers = [native.Buffer(slot.address, size, slot.event) for slot in backend.uploader._free]
        tensor = backend.tensor(
            next(t for t in backend._bundle.manifest.tensors if t.name == "all")
        )
        first = stored.offset + (pitch - width)
        ranges = [
            native.FileRange(tensor.address, first, width, 401, pitch, file.fileno()),
            native.FileRange(
                tensor.address + 401 * width, first + 401 * pitch, width, ROWS - 401, pitch,
                file.fileno(),
            ),
        ]  # fmt: skip
        native.stream(backend.device.context, backend.stream, buffers, 2, ranges)
        found = np.frombuffer(tensor.read_bytes(), np.uint8)[: ROWS * width]
    rows = VALUES["all"].view(np.uint8)
    assert np.array_equal(found.reshape(ROWS, width), rows[:, pitch - width :])


def test_any_failing_call_undoes_everything(path, fake):
    def use() -> None:
        with opened(path, 1) as backend:
            load(backend)

    said = fake.fail_each(use)
    assert len(said) > 20
    assert all("CUDA_ERROR_OUT_OF_MEMORY (2)" in error for error in said)
