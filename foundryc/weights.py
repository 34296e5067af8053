"""Weight files at capture: what they hold, and recipes that fill tensors from them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from blake3 import blake3

from foundryc.gguf_metadata import Metadata
from foundryrt import convert
from foundryrt.bundle.schema import (
    DTYPES,
    WeightCopy,
    WeightFile,
    WeightRecipe,
    Weights,
    WeightSource,
)
from foundryrt.errors import UsageError
from foundryrt.parallel import each
from foundryrt.weights import map_file

_SAFETENSORS_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
    "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
_GGUF_DTYPES = {
    "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
}  # fmt: skip
_MAX_HEADER = 100 << 20
_Size = Annotated[int, msgspec.Meta(ge=0, lt=1 << 60)]
_BLOCK = 8 << 20  # bytes of a source


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


@dataclass(frozen=True)
class WeightSlice:
    """Rows of a stored tensor that fill rows of a parameter, both seen as 2-D."""

    stored: StoredTensor
    rows: int
    columns: int
    source_row: int = 0
    source_row_step: int = 1
    source_column: int = 0
    row: int = 0
    row_step: int = 1
    column: int = 0

    def copy(self, source: int) -> WeightCopy:
        """The manifest's form, with `source` as the index of the stored tensor."""
        return WeightCopy(
            source=source, rows=self.rows, columns=self.columns,
            source_row=self.source_row, source_row_step=self.source_row_step,
            source_column=self.source_column,
            row=self.row, row_step=self.row_step, column=self.column,
        )  # fmt: skip


class _Entry(msgspec.Struct):
    """A tensor of a safetensors header."""

    dtype: str
    shape: Annotated[tuple[_Size, ...], msgspec.Meta(max_length=64)]
    data_offsets: tuple[_Size, _Size]


def whole(stored: StoredTensor) -> list[WeightSlice]:
    """The recipe of a parameter that is one stored tensor as it is."""
    return [WeightSlice(stored, stored.rows, stored.columns)]


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
            magic = file.read(4)
        try:
            self.tensors = self._read_gguf() if magic == b"GGUF" else self._read_safetensors()
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
        import gguf

        Metadata(map_file(self.path)).check()
        reader = gguf.GGUFReader(self.path)
        return {
            tensor.name: StoredTensor(
                self.path,
                tensor.name,
                _GGUF_DTYPES.get(tensor.tensor_type.name, tensor.tensor_type.name),
                # GGUF writes the fastest dimension first.
                tuple(int(size) for size in reversed(tensor.shape)),
                int(tensor.data_offset),
                int(tensor.n_bytes),
            )
            for tensor in reader.tensors
        }


def materialize(
    pieces: Iterable[WeightSlice], shape: Sequence[int], dtype: str
) -> convert.AnyArray:
    """A parameter from its pieces, as the runtime will fill it: `shape`, `storage_dtype(dtype)`."""
    target = np.zeros((prod(shape[:-1]), shape[-1]), convert.storage_dtype(dtype))
    decoded: dict[StoredTensor, convert.AnyArray] = {}
    for piece in pieces:
        stored = piece.stored
        if stored not in decoded:
            data = _bytes(stored)
            decoded[stored] = convert.decode(data, stored.dtype, stored.rows, stored.columns, dtype)
        convert.copy_rows(piece.copy(0), decoded[stored], target)
    return target.reshape(tuple(shape))


def build_weights(tensors: Sequence[tuple[int, Sequence[WeightSlice]]]) -> Weights:
    """The manifest's recipes for `(tensor index, its pieces)`; reads every source to digest it."""
    files: dict[Path, int] = {}
    sources: dict[StoredTensor, int] = {}
    recipes = []
    for index, whole_pieces in tensors:
        pieces = [part for piece in whole_pieces for part in _split(piece)]
        for piece in pieces:
            files.setdefault(piece.stored.path, len(files))
            sources.setdefault(piece.stored, len(sources))
        copies = tuple(piece.copy(sources[piece.stored]) for piece in pieces)
        recipes.append(WeightRecipe(tensor=index, copies=copies))
    digests: dict[StoredTensor, bytes] = {}

    def take(stored: StoredTensor) -> None:
        digests[stored] = blake3(_bytes(stored)).digest()

    each(take, sources)
    return Weights(
        files=tuple(
            WeightFile(name=name, size=path.stat().st_size, hint=str(path))
            for path, name in zip(files, distinct_names(list(files)), strict=True)
        ),
        sources=tuple(
            WeightSource(
                file=files[stored.path], name=stored.name, offset=stored.offset,
                length=stored.length, dtype=stored.dtype, rows=stored.rows,
                columns=stored.columns, blake3=digests[stored],
            )
            for stored in sources
        ),
        recipes=tuple(recipes),
    )  # fmt: skip


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """File names, with as many of their folders as it takes to tell the paths apart."""
    parts = [path.relative_to(path.anchor).parts for path in paths]
    depth = 1
    while len({part[-depth:] for part in parts}) < len(paths):
        depth += 1
    return ["/".join(part[-depth:]) for part in parts]


def _split(piece: WeightSlice) -> list[WeightSlice]:
    """A piece of a large stored tensor as pieces of its blocks of rows, each a source of its own.

    A digest is taken by one thread from beginning to end, so large sources would be waited for.
    """
    stored = piece.stored
    plain = stored.dtype in DTYPES and piece.source_row_step == piece.row_step == 1
    if not plain or stored.length <= _BLOCK:
        return [piece]
    row_bytes = stored.length // stored.rows
    height = max(1, _BLOCK // row_bytes)
    parts = []
    end = piece.source_row + piece.rows
    for start in range(piece.source_row // height * height, end, height):
        rows = min(height, stored.rows - start)
        block = replace(
            stored,
            name=f"{stored.name}[{start}:{start + rows}]",
            shape=(rows, stored.columns),
            offset=stored.offset + start * row_bytes,
            length=rows * row_bytes,
        )
        first, last = max(start, piece.source_row), min(start + rows, end)
        parts.append(
            replace(
                piece,
                stored=block,
                rows=last - first,
                source_row=first - start,
                row=piece.row + first - piece.source_row,
            )
        )
    return parts


def _bytes(stored: StoredTensor) -> memoryview:
    return map_file(stored.path)[stored.offset : stored.offset + stored.length]
