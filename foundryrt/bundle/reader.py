"""Reading a bundle: every section is checked against its digest before its first use."""

from __future__ import annotations

import functools
import hashlib
import mmap
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Self, TypeVar

import msgspec
import zstandard

from foundryrt.bundle import signature, tables
from foundryrt.bundle.addresses import Addresses, check_bytes
from foundryrt.bundle.builds import with_builds
from foundryrt.bundle.check import check_manifest
from foundryrt.bundle.errors import (
    BundleError,
    InvalidReference,
    KernelDigestMismatch,
    ManifestMalformed,
    ManifestMissing,
    SectionDigestMismatch,
    SectionUnpackFailed,
    UncoveredBytes,
    UnknownCodec,
    UnknownSection,
)
from foundryrt.bundle.extents import Initial, initial
from foundryrt.bundle.layout import (
    HEADER_BYTES,
    Codec,
    Section,
    unpack_header,
    unpack_table,
)
from foundryrt.bundle.schema import Build, GraphEntry, Manifest, Region, SectionKind
from foundryrt.errors import DISTRIBUTION, FoundryError, Unreadable, UsageError
from foundryrt.printable import quoted
from foundryrt.regular import open_regular

if TYPE_CHECKING:
    from foundryrt.trust import Trust


# Made here, once: msgspec crashes where two threads have it learn the same types at a time.
_MANIFEST = msgspec.msgpack.Decoder(Manifest)
_STEP, _WINDOW = 1 << 18, 8 << 20
"""Bytes that are unpacked at a time, and those that a frame may look back at meanwhile."""


_URL = re.compile("[a-z0-9]+:/")
_AGAIN = "the file is damaged: copy it again"
_P = ParamSpec("_P")
_R = TypeVar("_R")


def _located(
    method: Callable[Concatenate[Bundle, _P], _R],
) -> Callable[Concatenate[Bundle, _P], _R]:
    """Have the errors of a Bundle's method say which bundle it is."""

    @functools.wraps(method)
    def locating(bundle: Bundle, /, *args: _P.args, **given: _P.kwargs) -> _R:
        try:
            return method(bundle, *args, **given)
        except BundleError as error:
            error.at(bundle._name)
            raise

    return locating


class Bundle:
    """An open bundle. The file is mapped, not read, as long as a view of it exists."""

    def __init__(
        self,
        path: Path,
        data: mmap.mmap,
        trust: Trust | None = None,
        fetch: Callable[[int, Section], None] | None = None,
        name: str = "",
    ) -> None:
        """`data` is the file `path`; `fetch` and `name` as for `map`."""
        self.path = path
        self._name = name or str(path)
        self._data = memoryview(data)
        self._checked: set[int] = set()
        self._fetch = fetch
        header = unpack_header(bytes(self._data[:HEADER_BYTES]), len(self._data))
        table = bytes(self._data[header.table_offset :])
        self.sections = unpack_table(table, header)
        signed = signature.payload(self.sections)
        self.message = signature.message(signed, table)
        """What a signature of this bundle is made over."""
        self.digest = signature.digest(signed, table)
        """SHA-256 of the section table without signatures: equal for bundles of equal contents."""
        self.signatures = (
            signature.unpack(bytes(self.stored(len(signed))))
            if len(signed) < len(self.sections)
            else ()
        )
        """Claims, until a Trust has checked them."""
        # Nothing further is read of a bundle that no trusted key has signed.
        if trust is not None:
            trust.check(self.message, self.signatures)
        self._check_padding(header.table_offset)
        for section in self.sections:
            if not section.known and not section.optional:
                raise UnknownSection(
                    f"{section}: written by a later version; update {DISTRIBUTION}"
                )
            if section.known and section.codec not in (Codec.NONE, Codec.ZSTD):
                raise UnknownCodec(f"{section} has codec {section.codec}")
            if section.known and section.codec == Codec.NONE and section.raw != section.stored:
                raise SectionUnpackFailed(
                    f"{section} is not compressed, but {section.stored} bytes stand for "
                    f"{section.raw}"
                )
        self.manifest = self._read_manifest()
        check_manifest(self.manifest, self.sections)
        self._files = {
            section.name: index
            for index, section in enumerate(self.sections)
            if section.kind == SectionKind.FILE
        }

    @classmethod
    def open(cls, path: str | os.PathLike[str], trust: Trust | None = None) -> Self:
        """Map the file `path` and check its structure, its signature if `trust` is given, its
        manifest.

        UsageError where there is no such file, a BundleError (bundle/errors.py) for damage, and
        NotSigned, SignerNotTrusted or SignatureWrong (trust.py).
        """
        return cls.map(Path(path), trust)

    @classmethod
    def map(
        cls,
        path: Path,
        trust: Trust | None = None,
        fetch: Callable[[int, Section], None] | None = None,
        name: str = "",
    ) -> Self:
        """Map a file whose sections `fetch` brings in, checked, before their first use.

        Without `fetch` all are there. The errors are those of `open`, and call the bundle `name`,
        by default the path.
        """
        try:
            with open_regular(path) as file:
                size = os.fstat(file.fileno()).st_size
                if size < HEADER_BYTES:
                    unpack_header(file.read(HEADER_BYTES), size)
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (FileNotFoundError, NotADirectoryError):
            # A path has lost a slash of a URL.
            hint = "; a URL will not do here: fetch the file" if _URL.match(str(path)) else ""
            raise UsageError(f"{path}: no such file{hint}") from None
        except IsADirectoryError:
            raise UsageError(f"{path}: is a folder; give a .fdy file") from None
        except OSError as error:
            raise Unreadable(f"{path}: cannot be read: {error.strerror}") from error
        try:
            return cls(path, data, trust, fetch, name)
        except FoundryError as error:
            error.at(name or path)
            raise

    def close(self) -> None:
        """Drop the mapping; it is unmapped with the last view of it."""
        self._data = memoryview(b"")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @_located
    def stored(self, index: int) -> memoryview:
        """A section's stored bytes, checked against their digest on first use."""
        section = self.sections[index]
        data = self._data[section.offset : section.offset + section.stored]
        if index not in self._checked:
            if self._fetch is not None:
                self._fetch(index, section)
            elif hashlib.sha256(data).digest() != section.sha256:
                raise SectionDigestMismatch(f"{section} does not match its SHA-256; {_AGAIN}")
            self._checked.add(index)
        return data

    @_located
    def raw(self, index: int) -> memoryview:
        """A section's bytes, unpacked; a view of the file where it is stored as it is."""
        section = self.sections[index]
        data = self.stored(index)
        if section.codec == Codec.NONE:
            return data
        try:
            _check_frame(section, data)
            unpacked = zstandard.ZstdDecompressor().decompress(
                data, max_output_size=section.raw, allow_extra_data=False
            )
        except (zstandard.ZstdError, MemoryError) as error:
            raise SectionUnpackFailed(f"{section}: {error}") from error
        if len(unpacked) != section.raw:
            raise SectionUnpackFailed(f"{section}: {len(unpacked)} bytes, not {section.raw}")
        return memoryview(unpacked)

    def _check_unpacks(self, index: int) -> None:
        """Unpack a section in steps, none of which is kept."""
        section, data = self.sections[index], self.stored(index)
        if section.codec == Codec.NONE:
            return
        try:
            _check_frame(section, data)
            unpacker = zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj()
            step = max(16, _STEP * len(data) // max(section.raw, 1))
            steps = range(0, len(data), step)
            length = sum(len(unpacker.decompress(data[at : at + step])) for at in steps)
        except (zstandard.ZstdError, MemoryError) as error:
            raise SectionUnpackFailed(f"{section}: {error}") from error
        if length != section.raw or not unpacker.eof or unpacker.unused_data:
            raise SectionUnpackFailed(f"{section}: {length} bytes, not {section.raw}")

    @_located
    def template(self, index: int) -> tables.TemplateTable:
        """The checked columns of template `index`."""
        template, table = self.manifest.templates[index], self.unchecked_template(index)
        functions, regions = len(self.manifest.functions), len(self.manifest.regions)
        table.check(template.nodes, template.edges, functions, regions)
        return table

    @_located
    def unchecked_template(self, index: int) -> tables.TemplateTable:
        """The same for one who checks what is in the columns; only their lengths are checked."""
        template = self.manifest.templates[index]
        columns, data = template.columns, self.raw(template.section)
        table = tables.TemplateTable(**tables.unpack(columns, tables.TEMPLATE_COLUMNS, data))
        table.check_lengths(template.nodes, template.edges)
        return table

    def member(self, index: int) -> tables.MemberTable:
        """The columns of graph `index`; whether its words fit the template is checked later."""
        return self.member_of(self.manifest.graphs[index])

    @_located
    def member_of(self, graph: GraphEntry | Build) -> tables.MemberTable:
        """The same of a graph, or of a build of one."""
        arrays = tables.unpack(graph.columns, tables.MEMBER_COLUMNS, self.raw(graph.section))
        table = tables.MemberTable(**arrays)
        table.check()
        return table

    @_located
    def kernel(self, index: int) -> memoryview:
        """A kernel binary, checked against the digest that the manifest names."""
        kernel = self.manifest.kernels[index]
        data = self.raw(kernel.section)
        section = self.sections[kernel.section]
        # Stored as it is, the section's own digest, checked already, is the kernel's.
        plain = section.codec == Codec.NONE
        if (section.sha256 if plain else hashlib.sha256(data).digest()) != kernel.sha256:
            raise KernelDigestMismatch(f"kernel {index} is not {kernel.sha256.hex()}")
        return data

    def initial(self, region: Region) -> list[Initial]:
        """What a region of the bundle begins with; the rest is zero."""
        return [] if region.section == -1 else initial(region, self.raw(region.section))

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the attached files."""
        return tuple(self._files)

    def file(self, name: str) -> bytes:
        """An attached file; InvalidReference where there is none of that name."""
        return bytes(self.raw(self._file(name)))

    def file_digest(self, name: str) -> bytes:
        """SHA-256 of an attached file as it is stored: files of equal digests have equal contents.

        The errors are those of `file`.
        """
        return self.sections[self._file(name)].sha256

    def _file(self, name: str) -> int:
        if name not in self._files:
            there = quoted(", ".join(self._files))
            raise InvalidReference(f"no attached file {quoted(name)}; there are {there}")
        return self._files[name]

    @_located
    def check_tables(self) -> None:
        """Check every graph table, every member against its template, and all addresses."""
        manifest = self.manifest
        # Bundles that stay where they were have had other words there.
        moves = manifest.relocatable or any(region.owner for region in manifest.regions)
        members: dict[int, list[tuple[str, GraphEntry | Build]]] = {}
        for graph in manifest.graphs:
            for part in with_builds(graph):
                members.setdefault(part.template, []).append((graph.name, part))
        # One at a time, and no member is applied: many small ones may share a large template.
        for number in range(len(manifest.templates)):
            template = self.template(number)
            addresses = Addresses(template, manifest.regions) if moves else None
            for name, part in members.get(number, ()):
                member = self.member_of(part)
                member.check_fits(len(template.parameters))
                if addresses is not None:
                    addresses.check(name, member)
        for region in manifest.regions:
            where = f"region {quoted(region.name)}"
            for run in self.initial(region) if region.relocations else ():
                check_bytes(where, run.data, run.relocations, manifest.regions, run.offset)
        for variable in manifest.variables:
            where, data = f"variable {quoted(variable.name)}", memoryview(variable.data)
            check_bytes(where, data, variable.relocations, manifest.regions)

    @_located
    def verify(self, progress: Callable[[int], None] | None = None) -> None:
        """Check everything: each section's digest and contents. `progress` gets stored bytes."""
        for index, section in enumerate(self.sections):
            self.stored(index)
            if section.known:
                self._check_unpacks(index)
            if progress:
                progress(section.stored)
        for index in range(len(self.manifest.kernels)):
            self.kernel(index)
        self.check_tables()

    def _check_padding(self, table_offset: int) -> None:
        end = HEADER_BYTES
        for offset, stored in [(s.offset, s.stored) for s in self.sections] + [(table_offset, 0)]:
            gap = bytes(self._data[end:offset])
            if gap != bytes(len(gap)):
                raise UncoveredBytes(f"padding before byte {offset} is not zero; {_AGAIN}")
            end = offset + stored

    def _read_manifest(self) -> Manifest:
        found = [i for i, s in enumerate(self.sections) if s.kind == SectionKind.MANIFEST]
        if len(found) != 1:
            raise ManifestMissing(f"{len(found)} manifests, need one")
        try:
            return _MANIFEST.decode(self.raw(found[0]))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            # What is wrong may be a name of any length.
            raise ManifestMalformed(f"manifest: {str(error)[:400]}") from error


def _check_frame(section: Section, data: memoryview) -> None:
    """Before any memory is taken, the frame itself must agree with the table."""
    if zstandard.get_frame_parameters(data).content_size != section.raw:
        raise SectionUnpackFailed(f"{section}: its frame is not of {section.raw} bytes")
