"""Weights of one of several ranks to the stand-in device: its rows in blocks, its columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from foundryc.capture import Capture, RegionImage
from foundryc.weights import StoredTensor, TensorFile, WeightSlice, slices, whole
from foundryc.write import write_bundle
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import Ranks, Requirements, Tensor
from foundryrt.cuda.backend import CudaBackend
from foundryrt.cuda.plan import Plan
from foundryrt.weights import WeightsChanged

BASE, STRIDE, WORLD = 0x600000000000, 4 << 20, 3
ROWS, COLUMNS = 60, 96
VALUES = {
    name: np.random.default_rng(seed).standard_normal((ROWS, COLUMNS)).astype(np.float32)
    for seed, name in enumerate(("rows", "columns", "all"))
}
SHAPES = {"rows": (ROWS // WORLD, COLUMNS), "columns": (ROWS, COLUMNS // WORLD),
          "all": (ROWS, COLUMNS)}  # fmt: skip


def write(folder: Path, own: dict[str, list[WeightSlice]], shapes: dict[str, tuple]) -> Path:
    """A bundle for three ranks of float32 tensors that these slices fill."""
    tensors, offset = [], 1 << 16
    for name, shape in shapes.items():
        tensors.append(
            Tensor(name=name, region=0, offset=offset, dtype="float32", shape=shape,
                   strides=(shape[1], 1), role="weight")
        )  # fmt: skip
        offset += -(-4 * shape[0] * shape[1] // 256) * 256
    words = Tensor(
        name="ranks", region=0, offset=0, dtype="int32", shape=(4,), strides=(1,), role="state",
    )  # fmt: skip
    size = -(-offset // (2 << 20)) * (2 << 20)
    capture = Capture(
        target="cuda",
        requirements=Requirements(memory=size + WORLD * STRIDE, architecture="sm_90", driver=13000),
        producer={},
        regions=[
            RegionImage("weights", BASE, size),
            RegionImage("symmetric", BASE + size, WORLD * STRIDE, peer_stride=STRIDE),
        ],
        tensors=[*tensors, words],
        functions=(),
        graphs=(),
        slices={i: own[name] for i, name in enumerate(shapes)},
        ranks=Ranks(world=WORLD, words=len(tensors)),
    )
    write_bundle(folder / "ranks.fdy", capture, "w", {}, {})
    return folder / "ranks.fdy"


def divided(stored: dict[str, StoredTensor]) -> dict[str, list[WeightSlice]]:
    """Rows of `rows` and columns of `columns` for each rank, and all of `all`."""
    rows, columns = stored["rows"], stored["columns"]
    high, wide = rows.rows // WORLD, columns.columns // WORLD
    return {
        "rows": [
            WeightSlice(rows, high, rows.columns, source_row=high * rank, rank=rank)
            for rank in range(WORLD)
        ],
        "columns": [
            WeightSlice(columns, columns.rows, wide, source_column=wide * rank, rank=rank)
            for rank in range(WORLD)
        ],
        "all": whole(stored["all"]),
    }


@pytest.fixture
def bundle(tmp_path: Path, fake, monkeypatch):
    """Blocks of seven rows: a rank's twenty end amid one."""
    monkeypatch.setattr(slices, "_BLOCK", 7 * COLUMNS * 4)
    save_file(VALUES, tmp_path / "w.safetensors")
    own = divided(TensorFile(tmp_path / "w.safetensors").tensors)
    with Bundle.open(write(tmp_path, own, SHAPES)) as opened:
        yield opened
    assert fake.live == ""


def part(name: str, rank: int) -> np.ndarray:
    if name == "all":
        return VALUES[name]
    return np.split(VALUES[name], WORLD, 0 if name == "rows" else 1)[rank]


@pytest.mark.parametrize("rank", range(WORLD))
def test_a_rank_has_its_own_part(bundle, rank):
    backend = CudaBackend(bundle, rank=rank)
    for index, name in enumerate(SHAPES):
        np.testing.assert_array_equal(
            backend.read(bundle.manifest.tensors[index]), part(name, rank)
        )
    backend.close()


@pytest.mark.parametrize("rank", range(WORLD))
def test_the_device_can_take_digests_of_a_ranks_rows(bundle, rank):
    """They arrive in whole sources, though blocks of the file end elsewhere."""
    backend = CudaBackend(bundle, rank=rank, load_weights=False)
    plan = Plan.of(bundle.manifest, backend._arena, True, rank, range(99))
    backend.close()
    arriving = {bundle.manifest.weights.sources[index].name for index in plan.runs}
    first = 20 * rank
    assert {name for name in arriving if name.startswith("rows")} == {
        f"rows[{first}:{first + 20}][{start}:{min(start + 7, 20)}]" for start in (0, 7, 14)
    }
    cut = {i for i in plan.runs if bundle.manifest.weights.sources[i].name.startswith("columns")}
    assert plan.streamed == cut and plan.ranges.keys() == plan.runs.keys() - cut
    assert not plan.assembled


def test_what_is_another_ranks_may_be_damaged(bundle, tmp_path):
    with open(tmp_path / "w.safetensors", "r+b") as file:
        file.seek(TensorFile(tmp_path / "w.safetensors").tensors["rows"].offset + 30 * COLUMNS * 4)
        file.write(b"damaged")
    for rank in (0, 2):
        CudaBackend(bundle, rank=rank).close()
    with pytest.raises(WeightsChanged, match=r"rows\[20:40\]\[7:14\]"):
        CudaBackend(bundle, rank=1)
