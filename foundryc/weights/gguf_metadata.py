"""Whether the counts in a GGUF file's metadata fit the file: the gguf package believes any number.

| bytes | field |
|---|---|
| 4, 4 | `GGUF`, version |
| 8, 8 | number of tensors, number of keys |
| | of each key: its name, 4 bytes of type, its value |

A string is 8 bytes of length and the text; an array 4 bytes of type, 8 of count, and its items.
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_MOST = 1 << 22
"""Items of all arrays; a vocabulary of 256k tokens, with its merges, has a third of it."""


class Metadata:
    """Walks the metadata of a GGUF file; ValueError where it does not end inside the file."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 4
        self._left = _MOST

    def check(self) -> None:
        """Return where every count fits."""
        try:
            _, _, keys = self._take("<IQQ")
            for _ in range(keys):
                self._string()
                self._value(*self._take("<I"))
        except (struct.error, KeyError, RecursionError) as error:
            raise ValueError(f"metadata at byte {self._at}: {error}") from error

    def _take(self, form: str) -> tuple[int, ...]:
        values = struct.unpack_from(form, self._data, self._at)
        self._skip(struct.calcsize(form))
        return values

    def _skip(self, size: int) -> None:
        if size > len(self._data) - self._at:
            raise ValueError(f"metadata at byte {self._at}: {size} bytes reach beyond the file")
        self._at += size

    def _string(self) -> None:
        self._skip(*self._take("<Q"))

    def _value(self, kind: int) -> None:
        if kind == _STRING:
            self._string()
        elif kind == _ARRAY:
            item, count = self._take("<IQ")
            self._left -= count
            if self._left < 0:
                raise ValueError(f"metadata at byte {self._at}: more than {_MOST} values")
            for _ in range(count):
                self._value(item)
        else:
            self._skip(_SIZES[kind])
