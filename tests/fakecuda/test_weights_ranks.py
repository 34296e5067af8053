"""Weights of one of several ranks to the stand-in device: its rows in blocks, its columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from foundryc.capture import Capture, RegionImage
from foundryc.weights import TensorFile, WeightSlice, slices, whole
from foundryc.write import write_bundle
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import Ranks, Requirements, Tensor
from foundryrt.cuda.backend import CudaBackend
from foundryrt.cuda.weights import _Plan
from foundryrt.weights import WeightsChanged

BASE, STRIDE, WORLD = 0x600000000000, 4 << 20, 3
SLABS = BASE + (2 << 20)
ROWS, COLUMNS = 60, 96
VALUES = {
    name: np.random.default_rng(seed).standard_normal((ROWS, COLUMNS)).astype(np.float32)
    for seed, name in enumerate(("rows", "columns", "all"))
}
SHAPES = {"rows": (ROWS // WORLD, COLUMNS), "columns": (ROWS, COLUMNS // WORLD),
          "all": (ROWS, COLUMNS)}  # fmt: skip


@pytest.fixture
def bundle(tmp_path: Path, fake, monkeypatch):
    """Blocks of seven rows: a rank's twenty end amid one."""
    monkeypatch.setattr(slices, "_BLOCK", 7 * COLUMNS * 4)
    save_file(VALUES, tmp_path / "w.safetensors")
    stored = TensorFile(tmp_path / "w.safetensors").tensors
    own = {
        "rows": [
            WeightSlice(stored["rows"], 20, COLUMNS, source_row=20 * rank, rank=rank)
            for rank in range(WORLD)
        ],
        "columns": [
            WeightSlice(stored["columns"], ROWS, 32, source_column=32 * rank, rank=rank)
            for rank in range(WORLD)
        ],
        "all": whole(stored["all"]),
    }
    tensors = [
        Tensor(name=name, region=0, offset=i << 16, dtype="float32", shape=shape,
               strides=(shape[1], 1), role="weight")
        for i, (name, shape) in enumerate(SHAPES.items())
    ]  # fmt: skip
    words = Tensor(
        name="ranks", region=0, offset=3 << 16, dtype="int32", shape=(4,), strides=(1,),
        role="state",
    )  # fmt: skip
    capture = Capture(
        target="cuda",
        requirements=Requirements(memory=8 << 20, architecture="sm_90", driver=13000),
        producer={},
        regions=[
            RegionImage("weights", BASE, 1 << 20),
            RegionImage("symmetric", SLABS, WORLD * STRIDE, peer_stride=STRIDE),
        ],
        tensors=[*tensors, words],
        functions=(),
        graphs=(),
        slices={i: own[name] for i, name in enumerate(SHAPES)},
        ranks=Ranks(world=WORLD, words=3),
    )
    write_bundle(tmp_path / "ranks.fdy", capture, "w", {}, {})
    with Bundle.open(tmp_path / "ranks.fdy") as opened:
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
    plan = _Plan.of(bundle.manifest, backend._arena, True, rank)
    backend.close()
    arriving = {bundle.manifest.weights.sources[index].name for index in plan.runs}
    first = 20 * rank
    assert {name for name in arriving if name.startswith("rows")} == {
        f"rows[{first}:{first + 20}][{start}:{min(start + 7, 20)}]" for start in (0, 7, 14)
    }
    assert plan.ranges.keys() == plan.runs.keys()
    assert [recipe.tensor for recipe in plan.assembled] == [1]


def test_what_is_another_ranks_may_be_damaged(bundle, tmp_path):
    with open(tmp_path / "w.safetensors", "r+b") as file:
        file.seek(TensorFile(tmp_path / "w.safetensors").tensors["rows"].offset + 30 * COLUMNS * 4)
        file.write(b"damaged")
    for rank in (0, 2):
        CudaBackend(bundle, rank=rank).close()
    with pytest.raises(WeightsChanged, match=r"rows\[20:40\]\[7:14\]"):
        CudaBackend(bundle, rank=1)
