"""The signature section: who signed a bundle, and over which bytes (docs/format.md).

What is signed is the header that the file would have without its signature section. Such a header
follows from the other sections alone, and holds the digest of their table entries; so adding,
replacing or removing a signature changes nothing that another signature covers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from foundryrt.bundle.errors import SignatureMalformed
from foundryrt.bundle.layout import (
    ENTRY_BYTES,
    HEADER_BYTES,
    Codec,
    Section,
    align,
    pack_header,
)
from foundryrt.bundle.schema import SectionKind

DOMAIN = b"foundry bundle signature 1\0"
"""Keeps a signature over a bundle from standing for anything else that the key signs."""
NAME = "signatures"
KEY_BYTES, SIGNATURE_BYTES = 32, 64
_ONE = KEY_BYTES + SIGNATURE_BYTES
MAX_SIGNATURES = 64


@dataclass(frozen=True, order=True)
class Signature:
    """One Ed25519 signature; it is only as good as the trust in its key."""

    key: bytes
    """The raw public key, 32 bytes."""
    value: bytes

    @property
    def key_id(self) -> str:
        """SHA-256 of the raw public key, in hexadecimal."""
        return key_id(self.key)


def key_id(key: bytes) -> str:
    """How people and logs name a public key."""
    return hashlib.sha256(key).hexdigest()


def payload(sections: tuple[Section, ...]) -> tuple[Section, ...]:
    """The sections that a signature covers; SignatureMalformed where it is not the last one."""
    *others, last = sections
    if last.kind == SectionKind.SIGNATURE:
        whole = last.stored % _ONE == 0 and 0 < last.stored <= MAX_SIGNATURES * _ONE
        plain = last.codec == Codec.NONE and last.raw == last.stored and last.optional
        if not (whole and plain and last.name == NAME and others):
            raise SignatureMalformed(f"{last}: {last.stored} bytes, codec {last.codec}")
    else:
        others.append(last)
    if any(section.kind == SectionKind.SIGNATURE for section in others):
        raise SignatureMalformed("signatures must be one section, the last of the table")
    return tuple(others)


def digest(signed: tuple[Section, ...], table: bytes) -> bytes:
    """SHA-256 of the table entries of the sections that `payload` gives: what the bundle is."""
    return hashlib.sha256(_entries(signed, table)).digest()


def message(signed: tuple[Section, ...], table: bytes) -> bytes:
    """The bytes that are signed: the header of a file that holds the `signed` sections alone."""
    entries = _entries(signed, table)
    table_offset = align(max(HEADER_BYTES, signed[-1].offset + signed[-1].stored))
    return DOMAIN + pack_header(entries, table_offset, table_offset + len(entries))


def _entries(signed: tuple[Section, ...], table: bytes) -> bytes:
    return table[: len(signed) * ENTRY_BYTES]


def pack(signatures: list[Signature]) -> bytes:
    """The section's bytes: public key and signature of each, in the order of the keys."""
    if len(signatures) > MAX_SIGNATURES:
        raise SignatureMalformed(f"{len(signatures)} signatures, at most {MAX_SIGNATURES}")
    return b"".join(entry.key + entry.value for entry in sorted(signatures))


def unpack(data: bytes) -> tuple[Signature, ...]:
    """The entries; SignatureMalformed unless keys rise, so that no key signs twice."""
    entries = tuple(
        Signature(data[start : start + KEY_BYTES], data[start + KEY_BYTES : start + _ONE])
        for start in range(0, len(data), _ONE)
    )
    keys = [entry.key for entry in entries]
    if keys != sorted(set(keys)):
        raise SignatureMalformed("the signatures' keys are not in rising order")
    return entries
