"""What the user's weight files hold: safetensors and GGUF."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Any

import msgspec

from foundryc.weights.gguf_metadata import Metadata, stored_type
from foundryrt.bundle.schema import DTYPES
from foundryrt.errors import UsageError
from foundryrt.weight_files import map_file

_SAFETENSORS_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
    "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "U16": "uint16", "U32": "uint32", "U64": "uint64", "C64": "complex64",
}  # fmt: skip
_GGUF_DTYPES = {
    "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
}  # fmt: skip
_POINTER = b"version https://git-lfs."
_MAX_HEADER = 100 << 20
_Size = Annotated[int, msgspec.Meta(ge=0, lt=1 << 60)]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a weight file; `offset` and `length` in bytes from the file's start."""

    path: Path
    name: str
    dtype: str
    """A name of `DTYPES`, or a GGUF quantization such as `Q4_1`."""
    shape: tuple[int, ...]
    offset: int
    length: int

    @property
    def rows(self) -> int:
        """Rows of the 2-D view; a vector is one row."""
        return prod(self.shape[:-1])

    @property
    def columns(self) -> int:
        """Columns of the 2-D view: the last dimension."""
        return self.shape[-1] if self.shape else 1

    def data(self) -> memoryview:
        """Its bytes, mapped from the file; FoundryError where that cannot be read."""
        return map_file(self.path)[self.offset : self.offset + self.length]


class _Entry(msgspec.Struct):
    """A tensor of a safetensors header."""

    dtype: str
    shape: Annotated[tuple[_Size, ...], msgspec.Meta(max_length=64)]
    data_offsets: tuple[_Size, _Size]


class TensorFile:
    """The tensors of one safetensors or GGUF file, by name; no data is read.

    UsageError where the file is missing, of another kind, or damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # Links stay as they are: in a Hugging Face cache they lead to files named by digest.
        self.path = Path(path).absolute()
        if not self.path.is_file():
            raise UsageError(f"{path}: no such weight file")
        with open(self.path, "rb") as file:
            magic = file.read(len(_POINTER))
        if magic == _POINTER:
            raise UsageError(f"{path}: a pointer of Git LFS, not the file itself: git lfs pull")
        self.metadata: Mapping[str, Any] = {}
        """Keys of a GGUF file; of what a safetensors file says beside its tensors, nothing."""
        try:
            self.tensors = self._read_gguf() if magic[:4] == b"GGUF" else self._read_safetensors()
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise UsageError(
                f"{path}: neither a safetensors nor a GGUF file that can be read ({error})"
            ) from error
        for tensor in self.tensors.values():
            if not 0 <= tensor.offset <= tensor.offset + tensor.length <= self.path.stat().st_size:
                raise UsageError(f"{path}: tensor {tensor.name!r} reaches beyond the file")

    def _read_safetensors(self) -> dict[str, StoredTensor]:
        with open(self.path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(_MAX_HEADER, self.path.stat().st_size):
                raise ValueError("its header length is out of range")
            header = msgspec.json.decode(file.read(length), type=dict[str, msgspec.Raw])
        header.pop("__metadata__", None)
        tensors = {}
        for name, raw in header.items():
            entry = msgspec.json.decode(raw, type=_Entry)
            begin, end = entry.data_offsets
            dtype = _SAFETENSORS_DTYPES[entry.dtype]
            tensor = StoredTensor(
                self.path, name, dtype, entry.shape, 8 + length + begin, end - begin
            )
            if tensor.length != prod(tensor.shape) * DTYPES[dtype]:
                raise ValueError(f"tensor {name!r} has {tensor.length} bytes")
            tensors[name] = tensor
        return tensors

    def _read_gguf(self) -> dict[str, StoredTensor]:
        self.metadata = metadata = Metadata(map_file(self.path))
        tensors: dict[str, StoredTensor] = {}
        for entry in metadata.tensors:
            if entry.name in tensors:
                raise ValueError(f"tensor {entry.name!r} is there twice")
            kind, length = stored_type(entry)
            tensors[entry.name] = StoredTensor(
                self.path, entry.name, _GGUF_DTYPES.get(kind, kind), entry.shape,
                entry.offset, length,
            )  # fmt: skip
        return tensors
