"""A capture in a file, so that another process can read it, compare it and write its bundle.

    0    magic, offset and length of the index, BLAKE3 digest of the index as it is stored
    56   blobs one after another: columns of graphs, kernel binaries, the regions' first bytes
    ...  the index: MessagePack, zstd

It is no bundle and promises no later version anything: weight slices name files by their path.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import zstandard
from blake3 import blake3

from foundryc.capture import Capture, RegionImage
from foundryc.template import GraphTable
from foundryc.weights import WeightSlice
from foundryrt.atomic import AtomicFile, writing
from foundryrt.bundle.layout import align
from foundryrt.bundle.schema import (
    Column,
    Function,
    Growth,
    Random,
    Ranks,
    Relocation,
    Requirements,
    Tensor,
    Variable,
)
from foundryrt.bundle.tables import TEMPLATE_COLUMNS, pack, unpack
from foundryrt.bundle.writer import Buffer
from foundryrt.errors import FoundryError

MAGIC = b"FDYCAP\x05\n"
_HEADER = struct.Struct("<8sQQ32s")
_LEVEL = 3
_STEP = 16 << 20
"""Bytes that are decompressed at a time."""
_RATIO = 1024
"""What unpacks to more than so many times the pages that it fills is damaged; a region, to more
than its size."""


class _Blob(msgspec.Struct, frozen=True):
    """Bytes of the file; `digest` is BLAKE3, of what is stored."""

    offset: int
    stored: int
    compressed: bool
    digest: bytes


class _Graph(msgspec.Struct):
    name: str
    key: dict[str, int | str]
    columns: dict[str, Column]
    data: _Blob
    random: int
    builds: dict[str, _Graph]


class _Region(msgspec.Struct):
    name: str
    base: int
    size: int
    compress: bool
    initial: _Blob | None
    owner: str
    written: bool
    relocations: tuple[Relocation, ...]
    peer_stride: int


class _Index(msgspec.Struct):
    """A Capture with blobs in place of bytes."""

    target: str
    requirements: Requirements
    producer: dict[str, str]
    provenance: dict[str, str]
    regions: list[_Region]
    tensors: list[Tensor]
    functions: list[Function]
    variables: list[Variable]
    graphs: list[_Graph]
    kernels: list[_Blob]
    slices: dict[int, list[WeightSlice]]
    digest_kernel: int
    relocatable: bool
    random: Random | None
    growing: list[Growth]
    ranks: Ranks | None
    mapped: list[tuple[int, int]]


def save(capture: Capture, path: str | os.PathLike[str]) -> None:
    """Store `capture` at `path` at once; FoundryError where the file cannot be written."""
    with writing(path), AtomicFile(Path(path)) as target:
        target.file.write(bytes(_HEADER.size))
        index = _stored(capture, target.file)
        data = zstandard.compress(msgspec.msgpack.encode(index, enc_hook=_plain), _LEVEL)
        offset = target.file.tell()
        target.file.write(data)
        target.file.seek(0)
        digest = blake3(data).digest()
        target.file.write(_HEADER.pack(MAGIC, offset, len(data), digest))
        target.commit()


def load(path: str | os.PathLike[str]) -> Capture:
    """The capture stored at `path`; what its regions begin with stays in the file until it is read.

    FoundryError where there is no such file, or it is damaged; a region's bytes are checked when
    they are read.
    """
    file = _File.open(Path(path))
    index = file.index()
    return Capture(
        target=index.target,
        requirements=index.requirements,
        producer=index.producer,
        provenance=index.provenance,
        regions=tuple(_image(file, region) for region in index.regions),
        tensors=tuple(index.tensors),
        functions=tuple(index.functions),
        variables=tuple(index.variables),
        graphs=tuple(_table(file, graph) for graph in index.graphs),
        kernels=tuple(file.bytes(blob) for blob in index.kernels),
        slices=index.slices,
        digest_kernel=index.digest_kernel,
        relocatable=index.relocatable,
        random=index.random,
        growing=index.growing,
        ranks=index.ranks,
        mapped=index.mapped,
    )


def _stored(capture: Capture, file: BinaryIO) -> _Index:
    return _Index(
        target=capture.target,
        requirements=capture.requirements,
        producer=capture.producer,
        provenance=capture.provenance,
        regions=[
            _Region(
                image.name,
                image.base,
                image.size,
                image.compress,
                image.initial and _append(file, image.initial(), image.compress),
                image.owner,
                image.written,
                image.relocations,
                image.peer_stride,
            )
            for image in capture.regions
        ],
        tensors=list(capture.tensors),
        functions=list(capture.functions),
        variables=list(capture.variables),
        graphs=[_graph(table, file) for table in capture.graphs],
        kernels=[_append(file, [data], True) for data in capture.kernels],
        slices={index: list(slices) for index, slices in capture.slices.items()},
        digest_kernel=capture.digest_kernel,
        relocatable=capture.relocatable,
        random=capture.random,
        growing=list(capture.growing),
        ranks=capture.ranks,
        mapped=list(capture.mapped),
    )


def _graph(table: GraphTable, file: BinaryIO) -> _Graph:
    columns, data = pack(table.columns, TEMPLATE_COLUMNS)
    blob = _append(file, [data], True)
    builds = {name: _graph(build, file) for name, build in table.builds.items()}
    return _Graph(table.name, table.key, columns, blob, table.random, builds)


def _append(file: BinaryIO, parts: Iterable[Buffer], compress: bool) -> _Blob:
    """Write `parts` one after another, never more of them in memory than one."""
    offset, digest = file.tell(), blake3()

    def write(data: Buffer) -> None:
        file.write(data)
        digest.update(data)

    packer = zstandard.ZstdCompressor(level=_LEVEL).compressobj() if compress else None
    for part in parts:
        write(packer.compress(part) if packer else part)
    if packer:
        write(packer.flush())
    return _Blob(offset, file.tell() - offset, compress, digest.digest())


@dataclass(frozen=True)
class _File:
    """A stored capture, mapped."""

    path: Path
    data: memoryview

    @classmethod
    def open(cls, path: Path) -> _File:
        if not path.is_file():
            raise FoundryError(f"{path}: no such file, or it is none that holds a capture")
        try:
            with open(path, "rb") as file:
                if os.fstat(file.fileno()).st_size < _HEADER.size:
                    raise FoundryError(f"{path}: is no stored capture, or was cut off")
                return cls(path, memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
        except OSError as error:
            raise FoundryError(f"{path}: cannot be read: {error.strerror}") from error

    def index(self) -> _Index:
        magic, offset, length, digest = _HEADER.unpack_from(self.data)
        if magic != MAGIC:
            raise FoundryError(f"{self.path}: is no capture stored by this version of foundryc")
        stored = self.data[offset : offset + length]
        if len(stored) != length or blake3(stored).digest() != digest:
            raise self._damaged("in its index")
        try:
            data = b"".join(self._unpacked(stored, _RATIO * align(length), "in its index"))
            return msgspec.msgpack.decode(data, type=_Index, dec_hook=_restored)
        except (msgspec.DecodeError, zstandard.ZstdError) as error:
            raise self._damaged(f"in its index ({error})") from error

    def parts(self, blob: _Blob, most: int) -> Iterable[Buffer]:
        """A blob's bytes, never all of them in memory.

        FoundryError where they are damaged, or unpack to more than `most`.
        """
        stored = self.data[blob.offset : blob.offset + blob.stored]
        if blake3(stored).digest() != blob.digest:
            raise self._damaged(f"at byte {blob.offset}")
        if not blob.compressed:
            return (stored,)
        return self._unpacked(stored, most, f"at byte {blob.offset}")

    def bytes(self, blob: _Blob) -> bytes:
        return b"".join(self.parts(blob, _RATIO * align(blob.stored)))

    def _unpacked(self, stored: memoryview, most: int, where: str) -> Iterator[Buffer]:
        unpacker = zstandard.ZstdDecompressor(max_window_size=_STEP)
        for part in unpacker.read_to_iter(stored, write_size=_STEP):
            most -= len(part)
            if most < 0:
                raise self._damaged(f"{where} (it unpacks to too much)")
            yield part

    def _damaged(self, where: str) -> FoundryError:
        return FoundryError(f"{self.path}: this stored capture is damaged {where}; capture again")


def _table(file: _File, graph: _Graph) -> GraphTable:
    views = unpack(graph.columns, TEMPLATE_COLUMNS, memoryview(file.bytes(graph.data)))
    columns = {name: np.asarray(view) for name, view in views.items()}
    builds = {name: _table(file, build) for name, build in graph.builds.items()}
    return GraphTable(graph.name, graph.key, columns, graph.random, builds)


def _image(file: _File, region: _Region) -> RegionImage:
    blob = region.initial
    return RegionImage(
        region.name,
        region.base,
        region.size,
        None if blob is None else lambda: file.parts(blob, region.size),
        region.compress,
        region.owner,
        region.written,
        region.relocations,
        peer_stride=region.peer_stride,
    )


def _plain(path: Path) -> str:
    """What MessagePack has no form for: only weight slices' paths."""
    return os.fspath(path)


def _restored(kind: type[Path], text: str) -> Path:
    return kind(text)
