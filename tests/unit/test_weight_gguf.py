"""GGUF files: what is read lazily, what is refused by name, and what it costs to open one."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from foundryc.weights import TensorFile
from foundryrt.errors import FoundryError, UsageError


def write(path: Path, tokens: list[str], **keys: Any) -> bytes:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    for name, value in keys.items():
        writer.add_key_value(f"x.{name}", *value)
    writer.add_tensor("a", np.arange(96, dtype=np.float32).reshape(3, 32))
    writer.add_tensor("b", np.ones(32, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def test_metadata_and_tensors_are_those_of_the_gguf_package(tmp_path: Path) -> None:
    kinds = gguf.GGUFValueType
    keys = {
        "u8": (7, kinds.UINT8), "i64": (-(1 << 40), kinds.INT64), "f32": (0.5, kinds.FLOAT32),
        "f64": (1e300, kinds.FLOAT64), "bool": (True, kinds.BOOL), "text": ("\u00e9", kinds.STRING),
    }  # fmt: skip
    path = tmp_path / "m.gguf"
    write(path, ["a", "", "\u4f60\u597d"], **keys)
    file, reader = TensorFile(path), gguf.GGUFReader(path)
    expected = {name: field.contents() for name, field in reader.fields.items()}
    assert {**file.metadata} == {k: v for k, v in expected.items() if not k.startswith("GGUF.")}
    assert len(file.tensors) == 2
    for tensor in reader.tensors:
        found = file.tensors[tensor.name]
        assert found.shape == tuple(int(size) for size in reversed(tensor.shape))
        assert (found.offset, found.length) == (tensor.data_offset, tensor.n_bytes)


def test_a_vocabulary_costs_no_seconds(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write(path, [f"token{index}" for index in range(152_000)])
    began = time.process_time()
    assert TensorFile(path).metadata["tokenizer.ggml.tokens"][-1] == "token151999"
    assert time.process_time() - began < 2  # The gguf package takes 10 s and more.


def test_text_that_is_no_utf8_spoils_its_own_key_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    data = write(path, ["a"], note=("REPLACE", gguf.GGUFValueType.STRING))
    path.write_bytes(data.replace(b"REPLACE", "\ufeffabc".encode("utf-16-le")[:7]))
    metadata = TensorFile(path).metadata
    assert metadata["tokenizer.ggml.tokens"] == ["a"]
    with pytest.raises(ValueError, match=r"x\.note is not UTF-8"):
        _ = metadata["x.note"]


def test_a_tensor_of_an_unknown_type_is_refused_when_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    data = write(path, ["a"])
    place = data.index(b"\x01\0\0\0\0\0\0\0b") + 9
    kind = place + 4 + 8
    path.write_bytes(data[:kind] + struct.pack("<I", 99) + data[kind + 4 :])
    tensors = TensorFile(path).tensors
    assert tensors["b"].dtype == "type 99" and tensors["a"].data().nbytes == 384
    from foundryc.weights import materialize, whole

    with pytest.raises(FoundryError, match="type 99"):
        materialize(whole(tensors["b"]), (1, 32), "float32")


def test_big_endian_files_and_pointers_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack(">IQQ", 3, 0, 0))
    with pytest.raises(UsageError, match="big-endian"):
        TensorFile(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(UsageError, match="git lfs pull"):
        TensorFile(path)
