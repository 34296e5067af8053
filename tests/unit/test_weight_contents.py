"""Recipes found by what a parameter holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from foundryc.weights import TensorFile, WeightSlice, materialize
from foundryc.weights.contents import StoredParts


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def parts(folder: Path, **stored: np.ndarray) -> StoredParts:
    save_file(stored, folder / "model.safetensors")
    return StoredParts(TensorFile(folder / "model.safetensors").tensors.values())


def found(parts: StoredParts, name: str, values: np.ndarray, dtype: str) -> list[WeightSlice]:
    return parts.recipe(name, values.shape, dtype, values.reshape(-1, values.shape[-1]))


def test_the_tensor_of_the_same_name_comes_first(tmp_path: Path) -> None:
    ones = np.ones((2, 4), np.float32)
    stored = parts(tmp_path, a=ones, b=ones, c=ones)
    assert [part.stored.name for part in found(stored, "b", ones, "float32")] == ["b"]
    assert [part.stored.name for part in found(stored, "x.b", numbers(2, 4), "float32")] == []


def test_other_bytes_or_another_shape_under_the_name_are_no_match(tmp_path: Path) -> None:
    stored = parts(tmp_path, w=numbers(3, 4))
    assert found(stored, "w", numbers(3, 4, seed=1), "float32") == []
    changed = numbers(3, 4)
    changed[-1, -1] += 1
    assert found(stored, "w", changed, "float32") == []
    assert found(stored, "w", -numbers(3, 4), "float32") == []
    # What the rows hold decides, whatever shape they are stored in.
    assert len(found(stored, "w", numbers(3, 4).reshape(1, 3, 4), "float32")) == 1
    assert found(stored, "w", numbers(3, 4).reshape(4, 3), "float32") == []


def test_conversions_are_those_of_the_load(tmp_path: Path) -> None:
    stored = parts(tmp_path, w=numbers(3, 4))
    half = numbers(3, 4).astype(np.float16)
    (part,) = found(stored, "w", half, "float16")
    assert materialize([part], (3, 4), "float16").tobytes() == half.tobytes()
    assert found(stored, "w", numbers(3, 4).view(np.int32), "int32") == []


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=6),
    st.permutations(range(6)),
    st.sampled_from(["float32", "float16"]),
)
def test_rows_put_together_in_any_order(
    tmp_path_factory, heights: list[int], order: list[int], dtype: str
) -> None:
    """Stacked experts and fused projections, some of which begin with equal rows."""
    folder = tmp_path_factory.mktemp("weights")
    named = {f"w{i}": numbers(rows, 3, seed=i % 4) for i, rows in enumerate(heights)}
    stored = parts(folder, **named)
    taken = [f"w{i}" for i in order if i < len(heights)]
    values = np.concatenate([named[name] for name in taken]).astype(dtype)
    slices = found(stored, "fused", values, dtype)
    assert materialize(slices, values.shape, dtype).tobytes() == values.tobytes()
