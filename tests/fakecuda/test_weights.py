"""Weights from files to the stand-in device: in blocks, put together, old digests, wrong files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save_file

from foundryc.capture import Capture, RegionImage
from foundryc.weights import StoredTensor, TensorFile, WeightSlice, build_weights, whole
from foundryc.write import write_bundle
from foundryrt import native
from foundryrt.bundle.schema import Requirements, Tensor, Weights
from foundryrt.cuda import backend, digest
from foundryrt.cuda.upload import CHUNK
from foundryrt.cuda.weights import WeightLoader
from foundryrt.errors import FoundryError
from foundryrt.session import Session
from foundryrt.weights import WeightsChanged, find_file

BASE = 0x600000000000
COLUMNS = 1024
LARGE = 3 * CHUNK // (4 * COLUMNS) + 5  # rows of a tensor of three buffers and a bit
SHAPES = {"large": (LARGE, COLUMNS), "swapped": (6, 8), "vector": (7,)}


def values(name: str, seed: int = 0) -> np.ndarray:
    shape = SHAPES[name]
    return np.random.default_rng(len(name) + seed).integers(0, 1 << 30, shape).astype(np.float32)


def write(
    folder: Path,
    old_digests: bool = False,
    by_device: bool = False,
    relocatable: bool = False,
    seed: int = 0,
) -> Path:
    """A bundle of three tensors: one in blocks, one with its rows in another order, one vector."""
    file = folder / "w.safetensors"
    save_file({name: values(name, seed) for name in SHAPES}, file)
    stored = TensorFile(file).tensors
    slices = {
        "large": whole(stored["large"]),
        "swapped": [
            WeightSlice(stored["swapped"], rows=3, columns=8, row_step=2, row=1),
            WeightSlice(stored["swapped"], rows=3, columns=8, source_row=3, row_step=2),
        ],
        "vector": whole(stored["vector"]),
    }
    tensors, offset = [], 0
    for name, shape in SHAPES.items():
        strides = (shape[1], 1) if len(shape) == 2 else (1,)
        tensors.append(
            Tensor(name=name, region=0, offset=offset, dtype="float32", shape=shape,
                   strides=strides, role="weight")
        )  # fmt: skip
        offset += -(-values(name).nbytes // 256) * 256
    kernels = [f"FAKE {digest.CHUNKS} {digest.TREE}\0".encode()] if by_device else []
    capture = Capture(
        target="cuda",
        requirements=Requirements(memory=offset, architecture="sm_90", driver=13000),
        producer={},
        regions=[RegionImage("weights", BASE, offset)],
        tensors=tensors,
        functions=(),
        graphs=(),
        kernels=kernels,
        slices={i: slices[name] for i, name in enumerate(SHAPES)},
        digest_kernel=len(kernels) - 1,
        relocatable=relocatable,
    )
    path = folder / "weights.fdy"
    with patch("foundryc.write.build_weights", by_sha256 if old_digests else build_weights):
        write_bundle(path, capture, "w", {}, {})
    return path


def by_sha256(tensors: Iterable[tuple[int, Sequence[WeightSlice]]]) -> Weights:
    """The recipes with the digests that bundles had first."""
    tensors = list(tensors)
    weights = build_weights(tensors)
    data = tensors[0][1][0].stored.path.read_bytes()
    sources = [
        msgspec.structs.replace(
            s, blake3=b"", sha256=hashlib.sha256(data[s.offset : s.offset + s.length]).digest()
        )
        for s in weights.sources
    ]
    return msgspec.structs.replace(weights, sources=tuple(sources))


def expected(name: str) -> np.ndarray:
    found = values(name)
    if name == "swapped":
        order = np.empty_like(found)
        order[1::2], order[0::2] = found[:3], found[3:]
        return order
    return found


@pytest.mark.parametrize("by_sha256", [False, True])
@pytest.mark.parametrize("at_once", [True, False])
def test_weights_arrive_as_they_are_in_the_file(tmp_path, fake, by_sha256, at_once):
    with Session.open(write(tmp_path, by_sha256), load_weights=at_once) as session:
        if not at_once:
            assert not session.read("large").any()
            session.load_weights(check=False)
        for name in SHAPES:
            assert np.array_equal(session.read(name), expected(name)), name
    assert fake.live == ""


@pytest.mark.parametrize("by_sha256", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_a_changed_byte_is_found_and_named(tmp_path, fake, name, by_sha256):
    path = write(tmp_path, by_sha256)
    place = TensorFile(tmp_path / "w.safetensors").tensors[name].offset
    with open(tmp_path / "w.safetensors", "r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(WeightsChanged, match=name):
        Session.open(path)
    assert fake.live == ""


@pytest.mark.parametrize("check", [True, False])
def test_a_file_cut_off_after_it_was_opened_is_named(tmp_path, fake, monkeypatch, check):
    path = write(tmp_path)
    with Session.open(path, load_weights=False) as session:
        size = (tmp_path / "w.safetensors").stat().st_size
        asked = []

        def find(file, folder):
            # As if it were cut off after it was found.
            asked.append(file)
            return Path(file.hint) if len(asked) == 1 else find_file(file, folder)

        monkeypatch.setattr("foundryrt.cuda.weights.find_file", find)
        with open(tmp_path / "w.safetensors", "r+b") as file:
            file.truncate(size // 2)
        with pytest.raises(WeightsChanged, match=r"w\.safetensors"):
            session.load_weights(check)
    assert fake.live == ""


def stream_large(
    session: Session, stored: StoredTensor, cuts: list[int], size: int, threads: int
) -> None:
    """Give the native core the large tensor in pieces between `cuts`, and buffers of `size`."""
    backend = session._opened
    backend.uploader.reserve()
    buffers = [native.Buffer(slot.address, size, slot.event) for slot in backend.uploader._free]
    address, start = session.tensor("large").address, stored.offset
    with open(stored.path, "rb") as opened:
        pieces = [
            native.FileRange(address + a, start + a, b - a, 1, 0, opened.fileno())
            for a, b in pairwise(cuts)
        ]
        native.stream(backend.device.context, backend.stream, buffers, threads, pieces)


@pytest.mark.parametrize("size", [1000, (300 << 10) + 1, CHUNK])
def test_pieces_of_any_length_are_cut_to_the_buffers(tmp_path, fake, size):
    end = values("large").nbytes
    cuts = [0, 0, 1, 12345, (256 << 10) + 12345, 3 * CHUNK, 3 * CHUNK, end]
    with Session.open(write(tmp_path), load_weights=False) as session:
        stored = TensorFile(tmp_path / "w.safetensors").tensors["large"]
        stream_large(session, stored, cuts, size, threads=2)
        assert np.array_equal(session.read("large"), expected("large"))
    assert fake.live == ""


def test_a_file_that_ends_amid_a_piece_is_named_with_the_byte(tmp_path, fake):
    path, file = write(tmp_path), tmp_path / "w.safetensors"
    with Session.open(path, load_weights=False) as session:
        stored = TensorFile(file).tensors["large"]
        end = stored.offset + CHUNK + 3
        os.truncate(file, end)
        with pytest.raises(FoundryError, match=rf"w\.safetensors ends at byte {end}; it was cut"):
            stream_large(session, stored, [0, stored.length], 1000, threads=1)
    assert fake.live == ""


def test_what_a_load_needs_besides_the_files_is_made_once_and_in_advance(tmp_path, fake):
    with Session.open(write(tmp_path, by_device=True), load_weights=False) as session:
        session._opened._preparation.join()
        session.wait()
        made = fake.live
        assert "library 1" in made and "pinned 1" in made and "device memory 4" in made
        for _ in range(2):
            with pytest.raises(WeightsChanged, match="large"):
                session.load_weights()
            assert fake.live == made
    assert fake.live == ""


def test_what_could_not_be_prepared_is_asked_for_again(tmp_path, fake, monkeypatch):
    path = write(tmp_path, by_device=True)
    with monkeypatch.context() as patch:
        patch.setattr(backend, "_prepare", lambda loader: None)
        for call in range(1, 100):
            with Session.open(path, load_weights=False) as session:
                session.wait()  # the graphs that are made meanwhile make calls, too
                fake.fail(call)
                try:
                    session._opened._loader.prepare()
                    fake.fail(0)
                    break
                except FoundryError:
                    assert "library" not in fake.live and "device memory" not in fake.live
                with pytest.raises(WeightsChanged, match="large"):
                    session.load_weights()
            assert fake.live == ""
    assert call > 10


def test_the_devices_word_on_a_digest_is_taken(tmp_path, fake):
    # The stand-in takes no digests, so that none is right.
    with Session.open(write(tmp_path, by_device=True), load_weights=False) as session:
        with pytest.raises(WeightsChanged, match="large"):
            session.load_weights()
        session.load_weights(check=False)
        assert np.array_equal(session.read("large"), expected("large"))
    assert fake.live == ""


@pytest.mark.parametrize("batch", [1, 4, 1 << 20])
def test_batches_hold_every_range_once(monkeypatch, batch):
    monkeypatch.setattr(digest, "_BATCH", batch)
    counts = [3, 1, 1, 9, 1, 2]
    runs = list(digest._batches(counts))
    assert [i for start, end in runs for i in range(start, end)] == list(range(len(counts)))
    assert all(sum(counts[a:b]) <= batch or b == a + 1 for a, b in runs)


@pytest.mark.parametrize("by_device", [False, True])
def test_any_failing_call_undoes_everything(tmp_path, fake, by_device):
    path = write(tmp_path, by_device=by_device)

    def use() -> None:
        with Session.open(path, load_weights=False) as session:
            try:
                session.load_weights()
            except WeightsChanged:
                assert by_device

    said = fake.fail_each(use)
    assert len(said) > 20
    assert all("CUDA_ERROR_OUT_OF_MEMORY (2)" in error for error in said)


def test_a_preparation_that_fails_costs_no_load(tmp_path, fake, monkeypatch):
    def fail(self):
        raise FoundryError("no memory to pin")

    monkeypatch.setattr(WeightLoader, "prepare", fail)
    with Session.open(write(tmp_path), load_weights=False) as session:
        session.load_weights()
        session._opened._preparation.join()
    assert fake.live == ""
