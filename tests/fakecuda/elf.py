"""Cubins of the stand-in as ELF files: with sections and symbols, as the core reads them."""

from __future__ import annotations

import struct
from collections.abc import Sequence

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_SYMTAB, _STRTAB, _RELA = 2, 3, 4
_NAMES = b"\0.shstrtab\0.strtab\0.symtab\0.nv.global.init\0.text.add\0.rela.text.add\0"


def cubin(
    text: bytes, variables: Sequence[bytes] = (), unused: Sequence[bytes] = (), size: int = 4
) -> bytes:
    """`text` names the kernels ("FAKE add"), which refer to `variables` of `size` bytes each."""
    names = [*variables, *unused]
    strings = b"\0add\0" + b"".join(name + b"\0" for name in names)
    symbols = _SYMBOL.pack(0, 0, 0, 0, 0, 0) + _SYMBOL.pack(1, 18, 0, 5, 0, 0)
    for name in names:
        symbols += _SYMBOL.pack(strings.index(name), 1, 0, 4, 0, size)
    relocations = b"".join(struct.pack("<QIIq", 0, 2, 2 + i, 0) for i in range(len(variables)))
    parts = [text + b"\0", _NAMES, strings, symbols, bytes(size * len(names)), relocations]
    places = [_HEADER.size]
    for part in parts:
        places.append(places[-1] + len(part))
    rows = [
        (0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        (_NAMES.index(b".shstrtab"), _STRTAB, 0, 0, places[1], len(_NAMES), 0, 0, 1, 0),
        (_NAMES.index(b".strtab"), _STRTAB, 0, 0, places[2], len(strings), 0, 0, 1, 0),
        (_NAMES.index(b".symtab"), _SYMTAB, 0, 0, places[3], len(symbols), 2, 0, 8, _SYMBOL.size),
        (_NAMES.index(b".nv.global"), 1, 3, 0, places[4], len(parts[4]), 0, 0, 4, 0),
        (_NAMES.index(b".text"), 1, 6, 0, places[0], 0, 0, 0, 4, 0),
        (_NAMES.index(b".rela"), _RELA, 0, 0, places[5], len(relocations), 3, 5, 8, 24),
    ]
    head = _HEADER.pack(
        b"\x7fELF\2\1\1", 2, 190, 1, 0, 0, places[6], 0, _HEADER.size, 0, 0, _SECTION.size,
        len(rows), 1,
    )  # fmt: skip
    return head + b"".join(parts) + b"".join(_SECTION.pack(*row) for row in rows)
