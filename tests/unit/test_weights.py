"""Weights by recipe: safetensors and GGUF, strided copies, conversions, digests."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from safetensors.numpy import save_file

from foundryc.weights import (
    TensorFile,
    WeightSlice,
    build_weights,
    distinct_names,
    materialize,
    whole,
)
from foundryrt.bundle.schema import Manifest, Region, Requirements, Tensor, Workload
from foundryrt.convert import copy_rows, decode
from foundryrt.errors import FoundryError, UsageError
from foundryrt.host.weights import load
from foundryrt.weights import WeightsChanged, WeightsMissing, find_file


def bfloat16(values: np.ndarray) -> np.ndarray:
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(
        {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "v": np.ones(5, np.float16)}, path
    )
    return path


def manifest(path: Path) -> Manifest:
    """One tensor [3, 4] filled from `a` of `path`."""
    tensor = Tensor(
        name="w", region=0, offset=0, dtype="float32", shape=(3, 4), strides=(4, 1), role="weight"
    )
    return Manifest(
        format_version=1, target="host", workload=Workload(name="t", settings={}),
        requirements=Requirements(memory=4096), producer={}, provenance={},
        regions=(Region(name="weights", base=0, size=4096),), tensors=(tensor,),
        weights=build_weights([(0, whole(TensorFile(path).tensors["a"]))]),
    )  # fmt: skip


def test_safetensors(stored: Path) -> None:
    tensors = TensorFile(stored).tensors
    assert (tensors["a"].rows, tensors["a"].columns, tensors["a"].dtype) == (3, 4, "float32")
    assert (tensors["v"].rows, tensors["v"].columns) == (1, 5)
    np.testing.assert_array_equal(
        materialize(whole(tensors["a"]), (3, 4), "float32"), np.arange(12).reshape(3, 4)
    )


def test_gguf_quantized(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    quantized = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("q", quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("f", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensors = TensorFile(path).tensors
    np.testing.assert_array_equal(materialize(whole(tensors["f"]), (6, 64), "float32"), values)
    got = materialize(whole(tensors["q"]), (6, 64), "float32")
    assert 0 < np.abs(got - values).max() < 0.02


@settings(max_examples=40)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_interleaved_rows(heads: int, half: int, seed: int) -> None:
    """The row order of rotary weights in GGUF, undone by two strided copies a head."""
    source = np.random.default_rng(seed).standard_normal((heads * half * 2, 3)).astype(np.float32)
    target = np.zeros_like(source)
    for head in range(heads):
        for part in range(2):
            rows = WeightSlice(
                None, half, 3, head * half * 2 + part, 2, row=(2 * head + part) * half
            )
            copy_rows(rows.copy(0), source, target)
    expected = source.reshape(heads, half, 2, 3).swapaxes(1, 2).reshape(-1, 3)
    np.testing.assert_array_equal(target, expected)


@given(st.lists(st.floats(width=32), min_size=1, max_size=50))
def test_bfloat16_rounds_to_nearest_even(values: list[float]) -> None:
    data = np.array(values, np.float32)
    got = decode(memoryview(data).cast("B"), "float32", 1, len(data), "bfloat16")[0]
    back = (got.astype(np.uint32) << 16).view(np.float32)
    assert np.array_equal(np.isnan(back), np.isnan(data))
    kept = np.isfinite(data) & np.isfinite(back)
    for up in (0, 1, -1):
        near = ((got[kept].astype(np.int64) + up).astype(np.uint32) << 16).view(np.float32)
        error = np.abs(near.astype(np.float64) - data[kept])
        best = np.abs(back[kept].astype(np.float64) - data[kept])
        assert (best <= error)[np.isfinite(near)].all()


def test_load(stored: Path) -> None:
    target = np.zeros((3, 4), np.float32)
    read: list[int] = []
    load(manifest(stored), lambda _: target, progress=read.append)
    np.testing.assert_array_equal(target, np.arange(12).reshape(3, 4))
    assert read == [48]


def test_load_from_another_folder(stored: Path, tmp_path: Path) -> None:
    made = manifest(stored)
    (tmp_path / "moved").mkdir()
    stored.rename(tmp_path / "moved" / stored.name)
    target = np.zeros((3, 4), np.float32)
    with pytest.raises(WeightsMissing, match="--weights"):
        load(made, lambda _: target)
    load(made, lambda _: target, tmp_path / "moved")
    assert target[2, 3] == 11


def test_of_a_home_folder_no_name_is_kept(stored: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    made = manifest(stored)
    assert made.weights.files[0].hint == "~/model.safetensors"
    target = np.zeros((3, 4), np.float32)
    load(made, lambda _: target)
    assert target[2, 3] == 11
    other = tmp_path / "another"
    other.mkdir()
    monkeypatch.setenv("HOME", str(other))
    with pytest.raises(WeightsMissing, match="another/model"):
        load(made, lambda _: target)
    stored.rename(other / stored.name)
    load(made, lambda _: target)
    # A folder of that name, and one of another user, are no home.
    strange = replace(made.weights.files[0], hint="~somebody/model.safetensors")
    with pytest.raises(WeightsMissing, match="~somebody"):
        find_file(strange, None)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(WeightsMissing, match="~/model"):
        find_file(made.weights.files[0], None)
    assert manifest(other / stored.name).weights.files[0].hint == str(other / stored.name)


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.parametrize("home", ["/", "/somewhere/else"])
def test_a_file_outside_of_the_home_folder_keeps_its_path(stored: Path, monkeypatch, home) -> None:
    monkeypatch.setenv("HOME", home)
    assert manifest(stored).weights.files[0].hint == str(stored)


def test_changed_weights_are_refused_before_use(stored: Path) -> None:
    made = manifest(stored)
    data = bytearray(stored.read_bytes())
    data[made.weights.sources[0].offset + 3] ^= 1
    stored.write_bytes(data)
    target = np.zeros((3, 4), np.float32)
    with pytest.raises(WeightsChanged, match="'a'"):
        load(made, lambda _: target)
    assert not target.any()
    stored.write_bytes(data + b"x")
    with pytest.raises(WeightsChanged, match="bytes"):
        load(made, lambda _: target)


def test_float_weights_do_not_fill_integers(stored: Path) -> None:
    with pytest.raises(FoundryError, match="cannot fill"):
        materialize(whole(TensorFile(stored).tensors["a"]), (3, 4), "int32")


def test_bfloat16_to_float32() -> None:
    values = np.array([1.5, -2.0, 0.0078125])
    data = memoryview(bfloat16(values)).cast("B")
    np.testing.assert_array_equal(decode(data, "bfloat16", 1, 3, "float32")[0], values)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"short",
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b'"x"}',
        b"GGUF" + bytes(40),
        struct.pack("<Q", 61) + b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[100,108]}}   ',
        struct.pack("<Q", 58)
        + b'{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}    '
        + bytes(8),
    ],
)
def test_damaged_weight_files(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad"
    path.write_bytes(data)
    with pytest.raises(UsageError):
        TensorFile(path)


def test_two_files_of_one_name_keep_their_folders(stored: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    second = tmp_path / "other" / stored.name
    second.write_bytes(stored.read_bytes())
    slices = [whole(TensorFile(path).tensors["a"]) for path in (stored, second)]
    weights = build_weights([(0, slices[0]), (1, slices[1])])
    assert [file.name for file in weights.files] == [
        f"{tmp_path.name}/{stored.name}",
        f"other/{stored.name}",
    ]
    # Below --weights the same names are found.
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "other", moved / "other")
    assert find_file(weights.files[1], moved) == moved / "other" / stored.name


def test_names_of_paths_at_the_root() -> None:
    assert distinct_names([Path("/m"), Path("/x/m")]) == ["m", "x/m"]
