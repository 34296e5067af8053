"""The metadata and the tensor directory of a GGUF file.

| bytes | field |
|---|---|
| 4, 4 | `GGUF`, version |
| 8, 8 | number of tensors, number of keys |
| | of each key: its name, 4 bytes of type, its value |
| | of each tensor: its name, 4 bytes of dimensions, 8 of each, 4 of type, 8 of offset |

A string is 8 bytes of length and the text; an array 4 bytes of type, 8 of count, and its items.
Offsets count from the directory's end, rounded up to the alignment.
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

_NUMBERS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")
_VERSIONS = (2, 3)
_MOST = 1 << 22
"""Items of all arrays; a vocabulary of 256k tokens, with its merges, has a third of it."""
_DEPTH = 8
_DIMENSIONS = 8


@dataclass(frozen=True)
class Entry:
    """A tensor; its `offset` in bytes from the file's start."""

    name: str
    shape: tuple[int, ...]
    """Rows first: GGUF writes the fastest dimension first."""
    kind: int
    offset: int


class Metadata(Mapping[str, Any]):
    """Keys of a GGUF file with values as Python's own types, and its tensors.

    Made, every count fits the file; ValueError where one does not. A value is read when it is
    asked for; ValueError names its key where it is no text.
    """

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 4
        self._left = _MOST
        self._places: dict[str, tuple[int, int]] = {}
        self._values: dict[str, Any] = {}
        try:
            version, tensors, keys = self._take("<IQQ")
            if version not in _VERSIONS:
                order = "a big-endian file" if not version & 0xFFFF else "not supported"
                raise ValueError(f"GGUF version {version:#x}: {order}")
            for _ in range(keys):
                name, (kind,) = self._name(), self._take("<I")
                if name in self._places:
                    raise ValueError(f"key {name!r} is there twice")
                self._places[name] = kind, self._at
                self._skip_value(kind)
            self.tensors = self._directory(tensors)
        except (struct.error, KeyError, OverflowError) as error:
            raise ValueError(f"metadata at byte {self._at}: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, name: str) -> Any:
        if name not in self._values:
            self._at = self._places[name][1]
            try:
                self._values[name] = self._value(self._places[name][0])
            except UnicodeDecodeError as error:
                raise ValueError(f"{name} is not UTF-8") from error
        return self._values[name]

    def _directory(self, count: int) -> list[Entry]:
        found = []
        for _ in range(count):
            name, (dimensions,) = self._name(), self._take("<I")
            if dimensions > _DIMENSIONS:
                raise ValueError(f"tensor {name!r} has {dimensions} dimensions")
            *sizes, kind, offset = self._take(f"<{dimensions}QIQ")
            found.append((name, tuple(reversed(sizes)), kind, offset))
        end = self._at
        alignment = self.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"general.alignment {alignment!r} is no power of two")
        begin = -(-end // alignment) * alignment
        return [Entry(name, shape, kind, begin + at) for name, shape, kind, at in found]

    def _take(self, form: str) -> tuple[int, ...]:
        values = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return values

    def _skip(self, size: int) -> None:
        if size > len(self._data) - self._at:
            raise ValueError(f"metadata at byte {self._at}: {size} bytes reach beyond the file")
        self._at += size

    def _name(self) -> str:
        start = self._at + 8
        self._skip_value(_STRING)
        return str(self._data[start : self._at], "utf-8")

    def _skip_value(self, kind: int, depth: int = 0) -> None:
        if kind == _STRING:
            self._skip_strings(1)
        elif kind != _ARRAY:
            self._skip(struct.calcsize(_NUMBERS[kind]))
        else:
            item, count = self._take("<IQ")
            self._left -= count
            if self._left < 0 or depth > _DEPTH:
                raise ValueError(f"metadata at byte {self._at}: more than {_MOST} values")
            if item == _STRING:
                self._skip_strings(count)
            elif item == _ARRAY:
                for _ in range(count):
                    self._skip_value(item, depth + 1)
            else:
                self._skip(count * struct.calcsize(_NUMBERS[item]))

    def _skip_strings(self, count: int) -> None:
        # Vocabularies are long, and every string's place depends on the one before.
        at, data, length = self._at, self._data, _LENGTH.unpack_from
        for _ in range(count):
            at += 8 + length(data, at)[0]
        self._skip(at - self._at)

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._strings(1)[0]
        if kind != _ARRAY:
            return self._take(f"<{_NUMBERS[kind]}")[0]
        item, count = self._take("<IQ")
        if item == _STRING:
            return self._strings(count)
        if item == _ARRAY:
            return [self._value(item) for _ in range(count)]
        dtype = np.dtype(f"<{_NUMBERS[item]}")
        values = np.frombuffer(self._data, dtype, count, self._at).tolist()
        self._at += count * dtype.itemsize
        return values

    def _strings(self, count: int) -> list[str]:
        data, length, found = self._data, _LENGTH.unpack_from, []
        start = self._at
        for _ in range(count):
            start += 8
            end = start + length(data, start - 8)[0]
            found.append(str(data[start:end], "utf-8"))
            start = end
        self._at = start
        return found


def stored_type(entry: Entry) -> tuple[str, int]:
    """The name of a tensor's type, and its bytes; an unknown type has none.

    ValueError where its rows are no whole blocks.
    """
    import gguf

    try:
        kind = gguf.GGMLQuantizationType(entry.kind)
        block, size = gguf.GGML_QUANT_SIZES[kind]
    except (ValueError, KeyError):
        return f"type {entry.kind}", 0
    if entry.shape and entry.shape[-1] % block:
        raise ValueError(f"tensor {entry.name!r}: rows of {entry.shape[-1]} are no whole blocks")
    return str(kind.name), prod(entry.shape) // block * size
