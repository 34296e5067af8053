"""The bytes around the sections: the header and the section table (docs/format.md)."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import BinaryIO

from foundryrt.bundle.errors import (
    HeaderDamaged,
    LengthMismatch,
    NotABundle,
    SectionMalformed,
    SectionMisaligned,
    SectionOutOfBounds,
    SectionOverlap,
    SectionTooLarge,
    TableDamaged,
    UncoveredBytes,
    UnsupportedVersion,
)
from foundryrt.bundle.schema import ALIGNMENT, FORMAT_VERSION, MAGIC, SectionKind
from foundryrt.printable import quoted

# magic, sections, table offset, file length, reserved, SHA-256 of the table
_HEADER = struct.Struct("<4sIQQQ32s")
# kind, codec, flags, reserved, offset, stored length, raw length, SHA-256 of stored bytes, name
_ENTRY = struct.Struct("<HBBIQQQ32s64s")
HEADER_BYTES = _HEADER.size
ENTRY_BYTES = _ENTRY.size
NAME_BYTES = 64
MAX_SECTIONS = 1 << 20

# What a section unpacks to at most, as a multiple of the pages of 4 KiB that it fills: so a file's
# size bounds what reading it takes. The manifest grows once more when it is parsed. A region's
# bytes are as a rule zero, and are unpacked into the arena, whose size the manifest states.
MAX_RATIO = {SectionKind.MANIFEST: 32, SectionKind.REGION: 4096}
_USUAL_RATIO = 64


class Codec(IntEnum):
    """How a section's bytes are stored."""

    NONE = 0
    ZSTD = 1


@dataclass(frozen=True)
class Section:
    """One entry of the section table; lengths in bytes, the digest is of the stored bytes."""

    kind: int
    name: str
    offset: int
    stored: int
    raw: int
    codec: int
    sha256: bytes
    optional: bool = False

    @property
    def known(self) -> bool:
        """Whether this reader knows the kind."""
        return self.kind in SectionKind._value2member_map_

    def __str__(self) -> str:
        kind = SectionKind(self.kind).name.lower() if self.known else f"kind {self.kind}"
        return f"section {self.name!r} ({kind})"


def align(offset: int) -> int:
    """The next multiple of 4 KiB."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def too_large(kind: int, stored: int, raw: int) -> bool:
    """Whether a section of `stored` bytes may not unpack to `raw` bytes."""
    return raw > MAX_RATIO.get(SectionKind(kind), _USUAL_RATIO) * align(stored)


def printable(name: str) -> bool:
    """Whether a name is safe to print: not empty, no controls; its length is the file's affair."""
    return bool(name) and name.isprintable()


def check_name(name: str) -> bytes:
    """A section's name as it is stored; SectionMalformed where it does not fit."""
    stored = name.encode(errors="surrogatepass")
    if not printable(name) or len(stored) > NAME_BYTES:
        raise SectionMalformed(
            f"section name {quoted(name)}: use 1 to {NAME_BYTES} bytes of printable text"
        )
    return stored


def pack_table(sections: list[Section]) -> bytes:
    """The section table's bytes; SectionMalformed for a name that does not fit."""
    entries = []
    for section in sections:
        entries.append(
            _ENTRY.pack(
                section.kind, section.codec, int(section.optional), 0, section.offset,
                section.stored, section.raw, section.sha256, check_name(section.name),
            )
        )  # fmt: skip
    return b"".join(entries)


def pack_header(table: bytes, table_offset: int, file_length: int) -> bytes:
    """The header's 64 bytes."""
    digest = hashlib.sha256(table).digest()
    count = len(table) // _ENTRY.size
    return _HEADER.pack(MAGIC, count, table_offset, file_length, 0, digest)


def write_ends(file: BinaryIO, sections: list[Section]) -> None:
    """Write the section table behind the last section, where `file` is, and the header."""
    table_offset = align(file.tell())
    table = pack_table(sections)
    file.seek(table_offset)
    file.write(table)
    file.seek(0)
    file.write(pack_header(table, table_offset, table_offset + len(table)))


@dataclass(frozen=True)
class Header:
    """The checked header."""

    sections: int
    table_offset: int
    table_sha256: bytes

    @property
    def table_bytes(self) -> int:
        """Length of the section table."""
        return self.sections * _ENTRY.size


def unpack_header(data: bytes, file_length: int) -> Header:
    """Check the first 64 bytes against the file's length in bytes."""
    if data[:3] != MAGIC[:3]:
        raise NotABundle("not a .fdy bundle: the file does not begin with FDY")
    if len(data) >= 4 and data[3] != FORMAT_VERSION:
        raise UnsupportedVersion(
            f"format version {data[3]}, this reader knows {FORMAT_VERSION}; "
            "use the foundry release that wrote the bundle, or capture it again"
        )
    if len(data) < HEADER_BYTES:
        raise LengthMismatch(
            f"the file ends after {len(data)} bytes, inside its header; copy it again"
        )
    _, count, table_offset, length, reserved, digest = _HEADER.unpack(data[:HEADER_BYTES])
    if length != file_length:
        raise LengthMismatch(
            f"the header says {length} bytes, the file has {file_length}: "
            "cut off or added to; copy it again"
        )
    header = Header(count, table_offset, digest)
    if reserved or not 0 < count <= MAX_SECTIONS:
        raise HeaderDamaged(f"reserved word {reserved}, {count} sections")
    if table_offset % ALIGNMENT or table_offset < ALIGNMENT:
        raise HeaderDamaged(f"section table at {table_offset}, not at a multiple of 4 KiB")
    if table_offset + header.table_bytes != file_length:
        raise HeaderDamaged(
            f"section table at {table_offset} with {count} entries does not end the file"
        )
    return header


def unpack_table(table: bytes, header: Header) -> tuple[Section, ...]:
    """Check the table against its digest, then every entry of it, and return them."""
    if hashlib.sha256(table).digest() != header.table_sha256:
        raise TableDamaged("the section table does not match its SHA-256")
    table_offset = header.table_offset
    sections: list[Section] = []
    names: set[tuple[int, str]] = set()
    end = HEADER_BYTES
    for index, fields in enumerate(_ENTRY.iter_unpack(table)):
        kind, codec, flags, reserved, offset, stored, raw, digest, padded = fields
        try:
            name = padded.rstrip(b"\0").decode()
        except UnicodeDecodeError:
            raise SectionMalformed(f"section {index}: its name is not UTF-8") from None
        if not printable(name) or flags > 1 or reserved:
            raise SectionMalformed(f"section {index}: name {name!r}, flags {flags}")
        section = Section(kind, name, offset, stored, raw, codec, digest, bool(flags))
        if (kind, name) in names:
            raise SectionMalformed(f"{section}: there are two of them")
        names.add((kind, name))
        if offset % ALIGNMENT:
            raise SectionMisaligned(f"{section} begins at {offset}")
        if offset < end:
            raise SectionOverlap(f"{section} begins at {offset}, the one before ends at {end}")
        if offset != align(end):
            raise UncoveredBytes(f"{offset - align(end)} bytes before {section} belong to none")
        end = offset + stored
        if end > table_offset:
            raise SectionOutOfBounds(f"{section} ends at {end}, the table begins at {table_offset}")
        if section.known and too_large(kind, stored, raw):
            raise SectionTooLarge(f"{section} would unpack to {raw} bytes")
        sections.append(section)
    if align(end) != table_offset:
        raise UncoveredBytes(f"{table_offset - align(end)} bytes before the table belong to none")
    return tuple(sections)
