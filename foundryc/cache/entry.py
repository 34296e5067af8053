"""What makes a bundle a cache entry: a record of its key's parts, sealed inside the bundle.

The key is computed from the record, and the record is under the bundle's own digest; a name in a
cache says nothing. The record also has a BLAKE3 of every 16 MiB, so that all cores check a large
section at once; SHA-256 covers the record, so nothing weaker than both stands behind the bytes.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from foundryc.cache.errors import Poisoned
from foundryc.cache.key import Parts, key_of
from foundryrt.bundle.errors import BundleError
from foundryrt.bundle.layout import (
    HEADER_BYTES,
    Codec,
    Section,
    pack_header,
    pack_table,
    unpack_header,
)
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import ALIGNMENT, SectionKind
from foundryrt.errors import FoundryError, Unreadable, UsageError
from foundryrt.remote.local import write_at

RECORD = "cache.json"
CHUNK = 16 << 20
_BLOCK = 1 << 20
# Compared with the manifest: a record is only as good as its agreement with what it seals.
_PRODUCER = {"version.torch": "torch", "version.cuda": "cuda", "cpu": "cpu", "threads": "threads"}


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The parts of the key, and the BLAKE3 of bytes [4096, record) in steps of 16 MiB."""

    parts: Parts
    chunks: tuple[str, ...]


def seal(path: Path, parts: Parts) -> str:
    """Put the record into a finished bundle, in place; the key.

    UsageError where it has one already or is signed; FoundryError where the bundle was not made as
    `parts` say. Not atomic: meant for a file that has not yet been moved to where it is looked for.
    """
    with Bundle.open(path) as bundle:
        if RECORD in bundle.files:
            raise UsageError(f"{path}: has a cache record already")
        if any(section.kind == SectionKind.SIGNATURE for section in bundle.sections):
            raise UsageError(f"{path}: is signed; a record goes in before the signature")
        if wrong := _disagreement(bundle, parts):
            raise FoundryError(f"{path}: {wrong}")
        sections = list(bundle.sections)
    with open(path, "r+b") as file:
        at = unpack_header(file.read(HEADER_BYTES), path.stat().st_size).table_offset
        chunks = tuple(_digest(os.pread(file.fileno(), n, o)) for o, n in _spans(at))
        record = msgspec.json.encode(Record(parts=parts, chunks=chunks), order="sorted")
        size = len(record)
        digest = hashlib.sha256(record).digest()
        sections.append(Section(SectionKind.FILE, RECORD, at, size, size, Codec.NONE, digest))
        table = pack_table(sections)
        end = at + size + -size % ALIGNMENT
        file.seek(at)
        file.write(record.ljust(end - at, b"\0") + table)
        file.seek(0)
        file.write(pack_header(table, end, end + len(table)))
    return key_of(parts)


def read_record(bundle: Bundle) -> Record:
    """The record of a sealed bundle; UsageError where it has none, BundleError for damage."""
    if RECORD not in bundle.files:
        raise UsageError(f"{bundle.path}: has no cache record; capture it with --cache")
    try:
        return msgspec.json.decode(bundle.file(RECORD), type=Record)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{bundle.path}: its cache record cannot be read: {error}") from error


def admit(path: Path, key: str, copy_to: int | None = None) -> None:
    """Check every byte of the entry at `path` against `key`, copying to a file as it is checked.

    Poisoned where it is not the bundle of that key, Unreadable where nobody can tell,
    FileNotFoundError where it is gone. With `copy_to`, an empty file's descriptor, the
    bytes that were checked are the bytes written; the copy still needs `admit` of its own ends,
    which `admitted_copy` does.
    """
    try:
        with Bundle.open(path) as bundle:
            record = read_record(bundle)
            if key_of(record.parts) != key:
                raise BundleError(f"it is the bundle of key {key_of(record.parts)[:16]}…")
            if wrong := _disagreement(bundle, record.parts):
                raise BundleError(wrong)
            index = bundle.sections.index(next(s for s in bundle.sections if s.name == RECORD))
            _check_chunks(path, bundle.sections[index].offset, record.chunks, copy_to)
            # What follows the record, a signature, is small; nothing before it is left out.
            for later in range(index, len(bundle.sections)):
                bundle.stored(later)
            bundle.check_tables()
            for kernel in range(len(bundle.manifest.kernels)):
                bundle.kernel(kernel)
            if copy_to is not None:
                _copy_ends(path, bundle.sections[index].offset, copy_to)
    except Unreadable:
        raise
    except FoundryError as error:
        if not path.exists():
            raise FileNotFoundError(path) from None
        raise Poisoned(f"cache entry {key[:16]}… is refused: {error}") from error


def admitted_copy(source: Path, key: str, target: Path) -> None:
    """Copy the entry at `source` to the new file `target`; Poisoned where either is not `key`'s."""
    with open(target, "xb") as file:
        admit(source, key, file.fileno())
    try:
        with Bundle.open(source) as before, Bundle.open(target) as after:
            if before.digest != after.digest or read_record(before) != read_record(after):
                raise BundleError("it changed while it was being read")
    except FoundryError as error:
        raise Poisoned(f"cache entry {key[:16]}… is refused: {error}") from error


def _spans(end: int) -> Iterator[tuple[int, int]]:
    for start in range(ALIGNMENT, end, CHUNK):
        yield start, min(CHUNK, end - start)


def _digest(data: bytes | bytearray | memoryview) -> str:
    from blake3 import blake3  # Of the extra `cache`: looking at bundles works without it.

    return blake3(data).hexdigest()


def _check_chunks(path: Path, end: int, chunks: tuple[str, ...], copy_to: int | None) -> None:
    spans = list(_spans(end))
    if len(spans) != len(chunks):
        raise BundleError(f"its record has {len(chunks)} chunks for {len(spans)}")
    with open(path, "rb") as file, ThreadPoolExecutor(os.cpu_count()) as workers:
        check = _chunk_checker(file.fileno(), copy_to)
        done = workers.map(check, spans, chunks)
        for _ in done:
            pass


def _chunk_checker(source: int, copy_to: int | None) -> Callable[[tuple[int, int], str], None]:
    from blake3 import blake3  # Of the extra `cache`: looking at bundles works without it.

    local = threading.local()

    def check(span: tuple[int, int], expected: str) -> None:
        start, size = span
        # Blocks that stay in the core's own cache between reading, digesting and writing.
        buffer = local.__dict__.setdefault("buffer", bytearray(_BLOCK))
        digest = blake3()
        at, end = start, start + size
        while at < end:
            got = os.preadv(source, [memoryview(buffer)[: min(_BLOCK, end - at)]], at)
            if not got:
                break
            block = memoryview(buffer)[:got]
            digest.update(block)
            if copy_to is not None:
                write_at(copy_to, block, at)
            at += got
        if digest.hexdigest() != expected:
            raise BundleError(f"bytes {start} to {end} do not match their digest")

    return check


def _copy_ends(path: Path, record: int, copy_to: int) -> None:
    with open(path, "rb") as file:
        write_at(copy_to, file.read(ALIGNMENT), 0)
        file.seek(record)
        write_at(copy_to, file.read(), record)


def _disagreement(bundle: Bundle, parts: Parts) -> str:
    manifest = bundle.manifest
    made = {"target": manifest.target, "workload": manifest.workload.name}
    made |= {
        part: manifest.producer[name]
        for part, name in _PRODUCER.items()
        if name in manifest.producer
    }
    if manifest.requirements.architecture:
        made["device.architecture"] = manifest.requirements.architecture
    for name, value in made.items():
        if parts.get(name, value) != value:
            return f"it was made with {name} {value!r}, its key says {parts[name]!r}"
    return ""
