"""Writing a bundle: streamed into a temporary file, checked, then renamed to its path."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import msgspec
import zstandard

from foundryrt.atomic import AtomicFile, check_output, writing
from foundryrt.bundle.layout import (
    HEADER_BYTES,
    Codec,
    Section,
    align,
    check_name,
    pack_header,
    pack_table,
    too_large,
)
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import Manifest, SectionKind
from foundryrt.errors import FoundryError
from foundryrt.printable import quoted

Buffer = bytes | bytearray | memoryview
_LEVEL = 3


class BundleWriter:
    """Add sections, then `finish` with the manifest. Left by an exception, it leaves no file.

    with BundleWriter(path) as writer:
        index = writer.add(SectionKind.FILE, "tokenizer.json", data)
        writer.finish(manifest)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        check_output(self.path)
        self._sections: list[Section] = []
        with writing(self.path):
            self._target = AtomicFile(self.path)
        self._file = self._target.file
        self._file.write(bytes(HEADER_BYTES))

    def __enter__(self) -> BundleWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._target.__exit__(kind, error, trace)

    def add(
        self,
        kind: SectionKind,
        name: str,
        data: Buffer | Iterable[Buffer],
        compress: bool = True,
    ) -> int:
        """Append a section and return its index; many buffers are stored one after another.

        What would shrink to less than a reader unpacks is stored as it is. SectionMalformed for a
        name that the format has no room for.
        """
        check_name(name)
        parts = [data] if isinstance(data, (bytes, bytearray, memoryview)) else data
        if compress:
            packed = b"".join(parts)
            small = zstandard.ZstdCompressor(level=_LEVEL).compress(packed)
            if not too_large(kind, len(small), len(packed)):
                return self._append(kind, name, [small], len(packed))
            parts = [packed]
        return self._append(kind, name, parts, None)

    def _append(
        self, kind: int, name: str, parts: Iterable[Buffer], raw: int | None, optional: bool = False
    ) -> int:
        digest = hashlib.sha256()
        stored = 0
        with writing(self.path):
            offset = self._pad()
            for part in parts:
                self._file.write(part)
                digest.update(part)
                stored += memoryview(part).nbytes
        codec = Codec.NONE if raw is None else Codec.ZSTD
        raw = stored if raw is None else raw
        self._sections.append(
            Section(kind, name, offset, stored, raw, codec, digest.digest(), optional)
        )
        return len(self._sections) - 1

    def _pad(self) -> int:
        end = self._file.tell()
        self._file.write(bytes(align(end) - end))
        return align(end)

    def finish(self, manifest: Manifest) -> None:
        """Write manifest, table and header, check the file by reading it, and rename it."""
        try:
            packed = msgspec.msgpack.encode(manifest)
        except UnicodeEncodeError as error:
            raise FoundryError(
                f"{self.path}: {quoted(error.object)} is not UTF-8: rename the file or folder"
            ) from None
        self.add(SectionKind.MANIFEST, "manifest", packed)
        with writing(self.path):
            table = pack_table(self._sections)
            table_offset = self._pad()
            self._file.write(table)
            self._file.seek(0)
            self._file.write(pack_header(table, table_offset, table_offset + len(table)))
            self._target.sync()
            with Bundle.map(self._target.temporary, name=str(self.path)) as bundle:
                bundle.check_tables()
            self._target.commit()
