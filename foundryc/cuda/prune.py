"""A cubin with some of its kernels alone: library modules hold hundreds, a bundle needs one or two.

What debuggers read goes too: Triton's compiler puts the paths of the user's source files there.
Sections and symbols keep their numbers, so nothing that refers to one has to be rewritten: what
belongs to a dropped kernel becomes an empty section or symbol. Names and contents move together.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from foundryc.cuda.elf import FUNCTION, NOBITS, SYMTAB, text

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_NULL = 0
_PHDR = 6
_ENTRY = 0x10  # in a symbol's `other`: a kernel, not a device function
_PAIRS = 0x70000001  # call graph: two symbols each
_INFO = 0x70000000

# What belongs to one kernel: ".text.NAME", ".rela.text.NAME", ".nv.constant0.NAME", ...
_OWNED = re.compile(r"\.(?:rela?\.)?(?:text|nv\.(?:info|constant\d+|shared|local))\.(.+)")
# Tables over several kernels that are not understood here, and a newer form of code.
_REFUSED = re.compile(r"\.symtab_shndx|\.nv\.(?:uft|udt|merc|capmerc|prototype)|\.nv\.[a-z]*merc")
_DEBUG = re.compile(r"\.(?:rela?\.)?(?:debug_|nv_debug)")


@dataclass(frozen=True)
class _Part:
    """A section: its header's fields, name and contents."""

    name: str
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry: int
    data: bytes

    @property
    def stored(self) -> bool:
        return self.kind not in (_NULL, NOBITS)


_DROPPED = _Part("", _NULL, 0, 0, 0, 0, 0, 0, 0, 0, b"")


def prune(cubin: bytes, keep: set[str]) -> bytes:
    """The cubin with the kernels `keep`, or as it is where that is not known to be safe.

    The caller must load the result and compare the kernels' attributes before using it.
    """
    try:
        return _pruned(cubin, keep)
    except (struct.error, ValueError, LookupError, OverflowError):
        return cubin


def _pruned(cubin: bytes, keep: set[str]) -> bytes:
    header = _HEADER.unpack_from(cubin)
    segments_at, sections_at, segments, count = header[5], header[6], header[10], header[12]
    parts = list(_parts(cubin, sections_at, count, header[13]))
    tables = [i for i, part in enumerate(parts) if part.kind == SYMTAB]
    if len(tables) != 1 or any(_REFUSED.match(part.name) for part in parts):
        return cubin
    table = parts[tables[0]]
    strings = parts[table.link].data
    symbols = list(_SYMBOL.iter_unpack(table.data))
    names = [text(strings, symbol[0]) for symbol in symbols]
    kernels = {
        name
        for name, symbol in zip(names, symbols, strict=True)
        if symbol[1] & 15 == FUNCTION and symbol[2] & _ENTRY
    }
    if not keep <= kernels:
        return cubin
    drop = kernels - keep
    for index, part in enumerate(parts):
        owned = _OWNED.fullmatch(part.name)
        if (owned and owned[1] in drop) or _DEBUG.match(part.name):
            parts[index] = _DROPPED
    if not any(part is _DROPPED for part in parts):
        return cubin
    dropped = {i for i, s in enumerate(symbols) if s[3] < count and parts[s[3]] is _DROPPED}
    if _called(parts, dropped):
        return cubin
    kept = [(0,) * 6 if i in dropped else symbol for i, symbol in enumerate(symbols)]
    texts, place = _strings(["" if i in dropped else name for i, name in enumerate(names)])
    rebuilt = b"".join(_SYMBOL.pack(place(i), *symbol[1:]) for i, symbol in enumerate(kept))
    parts[tables[0]] = replace(table, data=rebuilt)
    parts[table.link] = replace(parts[table.link], data=texts)
    for index, part in enumerate(parts):
        if part.kind == _PAIRS and part.entry == 8:
            parts[index] = replace(part, data=_pairs(part.data, dropped))
        elif part.kind == _INFO and part.name == ".nv.info":
            parts[index] = replace(part, data=_attributes(part.data, dropped))
    return _assembled(cubin, header, parts, segments_at, segments)


def _parts(cubin: bytes, start: int, count: int, names_in: int) -> Iterator[_Part]:
    rows = [_SECTION.unpack_from(cubin, start + i * _SECTION.size) for i in range(count)]
    names = cubin[rows[names_in][4] : rows[names_in][4] + rows[names_in][5]]
    for name, kind, flags, address, offset, size, link, info, align, entry in rows:
        data = b"" if kind in (_NULL, NOBITS) else cubin[offset : offset + size]
        yield _Part(
            text(names, name), kind, flags, address, offset, size, link, info, align, entry, data
        )


def _called(parts: list[_Part], dropped: set[int]) -> bool:
    """Whether a kept section is relocated against a dropped symbol."""
    for part in parts:
        if part.kind in (4, 9):  # with addends, without
            step = 24 if part.kind == 4 else 16
            for at in range(0, len(part.data), step):
                if struct.unpack_from("<I", part.data, at + 12)[0] in dropped:
                    return True
    return False


def _strings(names: list[str]) -> tuple[bytes, Callable[[int], int]]:
    """A string table, and where in it the i-th name begins."""
    data = bytearray(b"\0")
    places: dict[str, int] = {"": 0}
    for name in names:
        if name not in places:
            places[name] = len(data)
            data += name.encode() + b"\0"
    return bytes(data), lambda index: places[names[index]]


def _pairs(data: bytes, dropped: set[int]) -> bytes:
    pairs = struct.iter_unpack("<II", data)
    return b"".join(struct.pack("<II", *pair) for pair in pairs if not dropped & set(pair))


def _attributes(data: bytes, dropped: set[int]) -> bytes:
    """The module's attributes without those of dropped symbols: (symbol, value) pairs."""
    out, at = bytearray(), 0
    while at < len(data):
        form, size = data[at], 4
        if form == 4:  # sized
            size += struct.unpack_from("<H", data, at + 2)[0]
        entry = data[at : at + size]
        if not (form == 4 and size == 12 and struct.unpack_from("<I", entry, 4)[0] in dropped):
            out += entry
        at += size
    return bytes(out)


def _assembled(
    cubin: bytes, header: tuple[int, ...], parts: list[_Part], segments_at: int, segments: int
) -> bytes:
    names, place = _strings([part.name for part in parts])
    parts[header[13]] = replace(parts[header[13]], data=names)
    out = bytearray(_HEADER.size)
    moved = [0] * len(parts)
    for index in sorted(range(len(parts)), key=lambda i: parts[i].offset):
        part = parts[index]
        if part.kind == _NULL:
            continue
        if part.align > len(cubin):
            raise ValueError(f"section {part.name!r} is aligned to {part.align} bytes")
        out += bytes(-len(out) % max(part.align, 1))
        moved[index] = len(out)
        out += part.data
    out += bytes(-len(out) % 8)
    sections_at = len(out)
    for index, part in enumerate(parts):
        size = len(part.data) if part.stored else part.size
        out += _SECTION.pack(
            place(index), part.kind, part.flags, part.address, moved[index], size, part.link,
            part.info, part.align, part.entry,
        )  # fmt: skip
    new_segments_at = len(out)
    for number in range(segments):
        kind, flags, offset, virtual, physical, stored, memory, align = _SEGMENT.unpack_from(
            cubin, segments_at + number * _SEGMENT.size
        )
        inside = [
            i for i, p in enumerate(parts)
            if p.stored and p.flags & 2 and offset <= p.offset < offset + stored
        ]  # fmt: skip
        if kind == _PHDR or offset == segments_at:
            offset = new_segments_at
        elif inside:
            offset = min(moved[i] for i in inside)
            end = max(moved[i] + len(parts[i].data) for i in inside)
            stored, memory = end - offset, end - offset + memory - stored
        else:
            stored, memory = 0, memory - stored
        out += _SEGMENT.pack(kind, flags, offset, virtual, physical, stored, memory, align)
    at = new_segments_at if segments else 0
    out[: _HEADER.size] = _HEADER.pack(*header[:5], at, sections_at, *header[7:])
    return bytes(out)
