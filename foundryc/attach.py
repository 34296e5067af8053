"""Files put into a bundle that is there: in place of those of the same names, all else as it is."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from foundryrt.atomic import AtomicFile, writing
from foundryrt.bundle import signature
from foundryrt.bundle.layout import HEADER_BYTES, Codec, Section, align, write_ends
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import SectionKind

_CHUNK = 16 << 20


def attach(path: Path, files: Mapping[str, bytes]) -> bool:
    """Put `files` into the bundle at `path`, and say whether it was signed: it no longer is.

    The new file is checked whole before it takes the old one's place. A BundleError for a damaged
    bundle, SectionMalformed for a name that does not fit.
    """
    with Bundle.open(path) as bundle:
        kept = signature.payload(bundle.sections)
        with writing(path), AtomicFile(path) as target:
            _write(bundle, kept, target, files)
            target.sync()
            with Bundle.open(target.temporary) as written:
                written.verify()
            shutil.copymode(path, target.temporary)
            target.commit()
        return bool(bundle.signatures)


def _write(
    bundle: Bundle, kept: tuple[Section, ...], target: AtomicFile, files: Mapping[str, bytes]
) -> None:
    """Sections keep their numbers, by which the manifest knows them; new ones come last."""
    file, sections, left = target.file, list[Section](), dict(files)
    file.write(bytes(HEADER_BYTES))
    with open(bundle.path, "rb") as source:
        for section in kept:
            file.seek(align(file.tell()))
            replaced = section.kind == SectionKind.FILE and section.name in left
            if replaced:
                sections.append(_put(target, section.name, left.pop(section.name)))
                continue
            sections.append(replace(section, offset=file.tell()))
            source.seek(section.offset)
            rest = section.stored
            while rest and (part := source.read(min(rest, _CHUNK))):
                file.write(part)
                rest -= len(part)
    for name, data in left.items():
        file.seek(align(file.tell()))
        sections.append(_put(target, name, data))
    write_ends(file, sections)


def _put(target: AtomicFile, name: str, data: bytes) -> Section:
    offset = target.file.tell()
    target.file.write(data)
    digest = hashlib.sha256(data).digest()
    return Section(SectionKind.FILE, name, offset, len(data), len(data), Codec.NONE, digest)
