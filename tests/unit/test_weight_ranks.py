"""Weights by rank: rectangles of parameters, and a load that reads what one rank needs."""

from __future__ import annotations

import os
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from foundryc.weights import (
    StoredTensor,
    TensorFile,
    WeightSlice,
    build_weights,
    cut,
    materialize,
    slices,
    whole,
)
from foundryrt.bundle.schema import (
    Manifest,
    Ranks,
    Region,
    Requirements,
    Tensor,
    WeightSource,
    Workload,
)
from foundryrt.convert import decode_columns, decode_source
from foundryrt.errors import UsageError
from foundryrt.host.weights import load
from foundryrt.sharing import digested_by
from foundryrt.weight_files import file_states
from foundryrt.weights import WeightsChanged
from tests.unit.file_clock import wait_for_a_step

WORLD, ROWS, COLUMNS = 3, 12, 6
VALUES = np.arange(ROWS * COLUMNS, dtype=np.float32).reshape(ROWS, COLUMNS)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredTensor:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file({"w": VALUES}, path)
    return TensorFile(path).tensors["w"]


def ranges(size: int) -> st.SearchStrategy[range]:
    ends = st.tuples(st.integers(0, size), st.integers(0, size))
    return ends.map(lambda pair: range(min(pair), max(pair)))


@given(
    step=st.sampled_from([1, 2, 3]), row=st.integers(0, 3), column=st.integers(0, 2),
    rows=ranges(3 * ROWS), columns=ranges(COLUMNS + 2), to=st.integers(0, 4),
)  # fmt: skip
def test_a_rectangle_of_a_parameter(
    stored: StoredTensor, step: int, row: int, column: int, rows: range, columns: range, to: int
) -> None:
    """Also of rows that lie apart, in the file or in the parameter."""
    parts = [
        WeightSlice(stored, ROWS // 2, COLUMNS, row=row, row_step=step, column=column),
        WeightSlice(
            stored, ROWS // 2, COLUMNS, source_row=1, source_row_step=2,
            row=row + step * ROWS // 2, row_step=step, column=column,
        ),
    ]  # fmt: skip
    parameter = materialize(parts, (4 * ROWS, COLUMNS + 2), "float32")
    found = materialize(
        cut(parts, rows, columns, row=to, column=1), (4 * ROWS + to, COLUMNS + 3), "float32"
    )
    expected = np.zeros_like(found)
    expected[to : to + len(rows), 1 : 1 + len(columns)] = (
        parameter[rows.start : rows.stop, columns.start : columns.stop]
    )  # fmt: skip
    np.testing.assert_array_equal(found, expected)


def by_rank(stored: StoredTensor, way: str) -> list[WeightSlice]:
    """A third of the tensor for each rank."""
    found = []
    for rank in range(WORLD):
        if way == "rows":
            part = WeightSlice(stored, 4, COLUMNS, source_row=4 * rank, rank=rank)
        elif way == "columns":
            part = WeightSlice(stored, ROWS, 2, source_column=2 * rank, rank=rank)
        else:  # each third row, as interleaved heads have them
            part = WeightSlice(stored, 4, COLUMNS, source_row=rank, source_row_step=3, rank=rank)
        found.append(part)
    return found


THIRDS = {
    "rows": lambda rank: VALUES[4 * rank : 4 * rank + 4],
    "columns": lambda rank: VALUES[:, 2 * rank : 2 * rank + 2],
    "steps": lambda rank: VALUES[rank::3],
}


def manifest(parts: list[WeightSlice], shape: tuple[int, int], dtype: str = "float32") -> Manifest:
    tensor = Tensor(
        name="w", region=0, offset=0, dtype=dtype, shape=shape, strides=(shape[1], 1),
        role="weight",
    )  # fmt: skip
    return Manifest(
        format_version=1, target="host", workload=Workload(name="t", settings={}),
        requirements=Requirements(memory=4096), producer={}, provenance={},
        regions=(Region(name="weights", base=0, size=4096),), tensors=(tensor,),
        weights=build_weights([(0, parts)]), ranks=Ranks(world=WORLD, words=0),
    )  # fmt: skip


@pytest.mark.parametrize("rank", range(WORLD))
@pytest.mark.parametrize("way", THIRDS)
def test_a_rank_loads_its_own_part(stored: StoredTensor, way: str, rank: int) -> None:
    expected = THIRDS[way](rank)
    parts = by_rank(stored, way)
    np.testing.assert_array_equal(materialize(parts, expected.shape, "float32", rank), expected)
    target = np.full_like(expected, -1)
    load(manifest(parts, expected.shape), lambda _: target, rank=rank)
    np.testing.assert_array_equal(target, expected)


@pytest.mark.parametrize("block", [8 << 20, 2 * COLUMNS * 4])
def test_a_rank_reads_its_own_rows_alone(
    stored: StoredTensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """In sources that begin where its rows do, so that none is shared with another rank."""
    monkeypatch.setattr(slices, "_BLOCK", block)
    made = manifest(by_rank(stored, "rows"), (4, COLUMNS))
    assert sum(source.length for source in made.weights.sources) == VALUES.nbytes
    data = bytearray(stored.path.read_bytes())
    data[stored.offset + 5 * COLUMNS * 4] ^= 1  # of rank 1
    (tmp_path / stored.path.name).write_bytes(data)
    for rank in range(WORLD):
        target, read = np.zeros((4, COLUMNS), np.float32), []
        if rank == 1:
            with pytest.raises(WeightsChanged, match=r"w\[4:8\]"):
                load(made, lambda _, to=target: to, tmp_path, rank=rank)
        else:
            load(made, lambda _, to=target: to, tmp_path, progress=read.append, rank=rank)
            assert sum(read) == VALUES.nbytes // WORLD
            np.testing.assert_array_equal(target, THIRDS["rows"](rank))


def test_equal_parts_of_ranks_are_one_source(stored: StoredTensor) -> None:
    """As key-value heads are that several ranks have."""
    parts = [WeightSlice(stored, 4, COLUMNS, source_row=4 * (r // 2), rank=r) for r in range(4)]
    made = build_weights([(0, parts)])
    assert [recipe.rank for recipe in made.recipes] == [0, 1, 2, 3]
    assert [recipe.copies[0].source for recipe in made.recipes] == [0, 0, 1, 1]
    assert len(made.sources) == 2


@pytest.mark.parametrize("way", ["rows", "columns"])
def test_parts_of_a_quantized_tensor(tmp_path: Path, way: str) -> None:
    """Blocks of 32 columns may lie on two ranks: rows are unpacked before they are cut."""
    values = np.random.default_rng(0).standard_normal((12, 96)).astype(np.float32)
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor("q", gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensor = TensorFile(path).tensors["q"]
    unpacked = materialize(whole(tensor), (12, 96), "float32")
    for rank in range(4):
        if way == "rows":
            rows, columns = range(3 * rank, 3 * rank + 3), range(96)
        else:
            rows, columns = range(12), range(24 * rank, 24 * rank + 24)
        own = [
            WeightSlice(
                tensor, len(rows), len(columns), source_row=rows.start,
                source_column=columns.start, rank=rank,
            )
        ]  # fmt: skip
        expected = unpacked[rows.start : rows.stop, columns.start : columns.stop]
        made = manifest(own, expected.shape)
        assert made.weights.sources[0].rows == len(rows)
        target = np.zeros_like(expected)
        load(made, lambda _, to=target: to, rank=rank)
        np.testing.assert_array_equal(target, expected)
        target[:] = 0
        states = file_states(made, None)
        load(made, lambda _, to=target: to, rank=rank, digested=set(), states=states)
        np.testing.assert_array_equal(target, expected)


@given(columns=ranges(96).filter(len), kind=st.sampled_from(["Q8_0", "Q4_1", "bfloat16"]))
def test_only_the_blocks_of_some_columns_are_decoded(columns: range, kind: str) -> None:
    values = np.random.default_rng(1).standard_normal((4, 96)).astype(np.float32)
    if kind == "bfloat16":
        data, block = (values.view(np.uint32) >> 16).astype(np.uint16), 1
    else:
        data, block = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind]), 32
    raw = memoryview(data.tobytes())
    source = WeightSource(0, "q", 0, len(raw), kind, 4, 96)
    found, first = decode_columns(source, raw, "float32", columns)
    assert found.shape == (4, -(-columns.stop // block) * block - columns.start // block * block)
    np.testing.assert_array_equal(
        found[:, columns.start - first : columns.stop - first],
        decode_source(source, raw, "float32")[:, columns.start : columns.stop],
    )


def test_columns_that_lie_apart_are_read_at_once(stored: StoredTensor) -> None:
    parts = [
        WeightSlice(stored, ROWS, 1, source_column=column, column=place)
        for place, column in enumerate((3, 1, 4))
    ]
    made = manifest(parts, (ROWS, 3), "float64")
    target, read = np.zeros((ROWS, 3)), []
    load(made, lambda _: target, None, True, read.append, 0, set(), file_states(made, None))
    np.testing.assert_array_equal(target, VALUES[:, [3, 1, 4]])
    assert sum(read) == VALUES.nbytes * 4 // COLUMNS  # columns 1 to 4


def load_shared(
    made: Manifest, rank: int, target: np.ndarray, check: bool = True, folder: Path | None = None
) -> int:
    """As a rank of a session does; how many bytes it reads."""
    read: list[int] = []
    load(
        made, lambda _: target, folder, check, read.append, rank, digested_by(made, rank),
        file_states(made, folder),
    )  # fmt: skip
    return sum(read)


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_one_rank_reads_a_source_whole_and_the_others_their_columns(
    stored: StoredTensor, monkeypatch: pytest.MonkeyPatch, dtype: str, check: bool
) -> None:
    """Converted or not: float32 values are stored."""
    monkeypatch.setattr(slices, "_BLOCK", 4 * COLUMNS * 4)  # three sources
    made = manifest(by_rank(stored, "columns"), (ROWS, 2), dtype)
    for rank in range(WORLD):
        target = np.zeros((ROWS, 2), dtype)
        read = load_shared(made, rank, target, check)
        np.testing.assert_array_equal(target, THIRDS["columns"](rank).astype(dtype))
        third = VALUES.nbytes // 3
        assert read == (third + 2 * third // 3 if check else third)


def test_a_wrong_byte_is_found_by_the_rank_that_compares_it(
    stored: StoredTensor, tmp_path: Path
) -> None:
    made = manifest(by_rank(stored, "columns"), (ROWS, 2))
    data = bytearray(stored.path.read_bytes())
    data[stored.offset + 5] ^= 1  # in the columns of rank 0
    (tmp_path / stored.path.name).write_bytes(data)
    (finder,) = (rank for rank in range(WORLD) if digested_by(made, rank))
    for rank in range(WORLD):
        target = np.zeros((ROWS, 2), np.float32)
        if rank == finder:
            with pytest.raises(WeightsChanged, match=r"'w' in .*w\.safetensors is not what"):
                load_shared(made, rank, target, folder=tmp_path)
        else:
            load_shared(made, rank, target, folder=tmp_path)


def test_ranks_that_share_digests_read_one_file(stored: StoredTensor, tmp_path: Path) -> None:
    """Not another one of equal contents, nor one that was written to since."""
    made = manifest(by_rank(stored, "columns"), (ROWS, 2))
    target = np.zeros((ROWS, 2), np.float32)
    file = tmp_path / stored.path.name
    file.write_bytes(stored.path.read_bytes())

    before = file.stat()
    for known in (stored.path.parent, tmp_path):
        states = file_states(made, known)
        wait_for_a_step(file)
        file.write_bytes(file.read_bytes())
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as if it had not happened
        with pytest.raises(WeightsChanged, match="is not the file that rank 0 has there"):
            load(made, lambda _: target, tmp_path, rank=1, digested=set(), states=states)
        assert not target.any()
    with pytest.raises(UsageError, match="need the files' states"):
        load(made, lambda _: target, tmp_path, rank=1, digested=set())


def test_a_file_that_changes_while_ranks_read_it(stored: StoredTensor, tmp_path: Path) -> None:
    made = manifest(by_rank(stored, "columns"), (ROWS, 2))
    file = tmp_path / stored.path.name
    file.write_bytes(stored.path.read_bytes())
    states = file_states(made, tmp_path)
    wait_for_a_step(file)

    def target(_: int) -> np.ndarray:
        with open(file, "r+b") as changed:
            changed.write(b"\0")
        return np.zeros((ROWS, 2), np.float32)

    with pytest.raises(WeightsChanged, match="was changed meanwhile"):
        load(made, target, tmp_path, rank=1, digested=set(), states=states)
