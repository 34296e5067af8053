"""Damaged weight files: whatever their headers say, UsageError is all that comes out."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.numpy import save

from foundryc.weights import TensorFile
from foundryrt.errors import UsageError

GOOD = {"a": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
EDITS = st.lists(
    st.tuples(st.integers(0, 600), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4
)


def edited(data: bytes, edits: list[tuple[int, bytes]]) -> bytes:
    """The bytes with some of them overwritten."""
    changed = bytearray(data)
    for place, new in edits:
        place %= len(data)
        changed[place : place + len(new)] = new
    return bytes(changed[: len(data)])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "model"


@pytest.fixture(scope="module")
def metadata(path: Path) -> bytes:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list(["a", "b", "ab"])
    writer.add_rope_freq_base(1e4)
    writer.add_tensor("f", np.ones((6, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def use(path: Path) -> None:
    """Open a file that may be damaged; what is read of it must lie inside."""
    with contextlib.suppress(UsageError):
        for tensor in TensorFile(path).tensors.values():
            numbers = (tensor.offset, tensor.length, *tensor.shape)
            assert all(type(number) is int and number >= 0 for number in numbers)
            assert tensor.offset + tensor.length <= path.stat().st_size


def write_header(path: Path, header: bytes) -> None:
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(48))


@given(st.sampled_from(["dtype", "shape", "data_offsets"]), JSON)
@example("shape", ["-1", 1 << 40])
@example("shape", [3.0, 4.0])
@example("shape", [-3, -4])
@example("shape", [True, 12])
@example("data_offsets", [-8, 40])
@example("data_offsets", [0.0, 48.0])
def test_safetensors_values(path: Path, name: str, value: object) -> None:
    write_header(path, json.dumps({"a": {**GOOD["a"], name: value}}).encode())
    use(path)


@pytest.mark.parametrize(
    "header", [b"[" * 100_000, b'{"a":' * 100_000, b"null", b'{"a":1}', b"\xff"]
)
def test_safetensors_headers_of_another_form(path: Path, header: bytes) -> None:
    write_header(path, header)
    with pytest.raises(UsageError, match="neither a safetensors nor a GGUF file"):
        TensorFile(path)


@given(EDITS)
def test_safetensors_bytes(path: Path, edits: list[tuple[int, bytes]]) -> None:
    path.write_bytes(edited(save({"a": np.zeros((3, 4), np.float32)}), edits))
    use(path)


@given(EDITS)
def test_gguf_bytes(path: Path, metadata: bytes, edits: list[tuple[int, bytes]]) -> None:
    path.write_bytes(edited(metadata, edits))
    use(path)


def test_counts_of_gguf_are_not_believed(path: Path, metadata: bytes) -> None:
    tokens = metadata.index(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens")
    for place in (8, 16, tokens + 8):  # tensors, keys, items of an array
        for count in (1 << 20, 1 << 40, (1 << 64) - 1):
            path.write_bytes(edited(metadata, [(place, count.to_bytes(8, "little"))]))
            with pytest.raises(UsageError, match="neither a safetensors nor a GGUF file"):
                TensorFile(path)
    # Bytes instead of strings: items that take no more room than the file has.
    item = b"\0\0\0\0" + (1 << 40).to_bytes(8, "little")
    path.write_bytes(edited(metadata, [(tokens + 4, item)]))
    with pytest.raises(UsageError, match="more than"):
        TensorFile(path)
