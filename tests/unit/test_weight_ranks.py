"""Weights by rank: rectangles of parameters, and a load that reads what one rank needs."""

from __future__ import annotations

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
from foundryrt.bundle.schema import Manifest, Region, Requirements, Tensor, Workload
from foundryrt.host.weights import load
from foundryrt.weights import WeightsChanged

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


def manifest(parts: list[WeightSlice], shape: tuple[int, int]) -> Manifest:
    tensor = Tensor(
        name="w", region=0, offset=0, dtype="float32", shape=shape, strides=(shape[1], 1),
        role="weight",
    )  # fmt: skip
    return Manifest(
        format_version=1, target="host", workload=Workload(name="t", settings={}),
        requirements=Requirements(memory=4096), producer={}, provenance={},
        regions=(Region(name="weights", base=0, size=4096),), tensors=(tensor,),
        weights=build_weights([(0, parts)]),
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
