"""What a kernel binary says of itself: registers, memory, barriers."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_REGISTERS, _FRAME = 0x2F, 0x11
_FORM_SIZED = 4


@dataclass(frozen=True)
class Resources:
    """Of a kernel: registers and bytes of stack a thread, static shared memory a block."""

    registers: int
    frame: int
    shared: int


def resources(cubin: bytes, name: str) -> Resources:
    """Of the kernel `name`: what `cuobjdump --dump-resource-usage` prints."""
    sections = _sections(cubin)
    symbols = _symbols(cubin, sections)
    facts = {}
    at, (start, size) = 0, sections[".nv.info"]
    info = cubin[start : start + size]
    while at < size:
        form, attribute, length = struct.unpack_from("<BBH", info, at)
        if form == _FORM_SIZED:
            if length == 8:
                symbol, value = struct.unpack_from("<II", info, at + 4)
                facts[attribute, symbols[symbol]] = value
            at += length
        at += 4
    shared = sections.get(f".nv.shared.{name}", (0, 0))[1]
    return Resources(facts[_REGISTERS, name], facts.get((_FRAME, name), 0), shared)


def _sections(cubin: bytes) -> dict[str, tuple[int, int]]:
    """Offset and size by name."""
    (table,) = struct.unpack_from("<Q", cubin, 40)
    size, count, names = struct.unpack_from("<HHH", cubin, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", cubin, table + i * size) for i in range(count)]
    return {_text(cubin, headers[names][4] + h[0]): (h[4], h[5]) for h in headers}


def _symbols(cubin: bytes, sections: dict[str, tuple[int, int]]) -> list[str]:
    (start, size), (text, _) = sections[".symtab"], sections[".strtab"]
    entries = struct.iter_unpack("<IBBHQQ", cubin[start : start + size])
    return [_text(cubin, text + entry[0]) for entry in entries]


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()
