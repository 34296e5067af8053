"""The symbols of a cubin (ELF64, little-endian)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from foundryrt.errors import FoundryError

FUNCTION, OBJECT = 2, 1
SYMTAB, NOBITS = 2, 8


@dataclass(frozen=True)
class Symbol:
    """A named function or variable; `initial` is a variable's image, empty where it is zeros."""

    name: str
    kind: int
    size: int
    initial: bytes


@dataclass(frozen=True)
class _Section:
    kind: int
    offset: int
    size: int
    link: int


def text(data: bytes, start: int) -> str:
    """The string that begins at `start`, up to its zero."""
    return data[start : data.index(b"\0", start)].decode()


def symbols(cubin: bytes) -> Iterator[Symbol]:
    """Functions and variables that the cubin defines.

    FoundryError for what is no ELF64 file, or is damaged.
    """
    try:
        yield from _symbols(cubin)
    except (struct.error, LookupError, ValueError, OverflowError) as error:
        raise FoundryError(f"a module's binary is damaged: {error}") from error


def _symbols(cubin: bytes) -> Iterator[Symbol]:
    if cubin[:6] != b"\x7fELF\x02\x01":
        raise FoundryError("a module's binary is no 64-bit ELF file")
    (offset,) = struct.unpack_from("<Q", cubin, 40)
    size, count = struct.unpack_from("<HH", cubin, 58)
    sections = []
    for index in range(count):
        _, kind, _, _, start, length, link = struct.unpack_from(
            "<IIQQQQI", cubin, offset + index * size
        )
        sections.append(_Section(kind, start, length, link))
    for table in sections:
        if table.kind != SYMTAB:
            continue
        names = sections[table.link].offset
        for entry in range(table.offset, table.offset + table.size, 24):
            name, info, _, index, value, length = struct.unpack_from("<IBBHQQ", cubin, entry)
            kind = info & 15
            if kind not in (FUNCTION, OBJECT) or not 0 < index < count:
                continue
            initial = b""
            if kind == OBJECT and sections[index].kind != NOBITS:
                start = sections[index].offset + value
                initial = cubin[start : start + length]
            yield Symbol(text(cubin, names + name), kind, length, initial)
