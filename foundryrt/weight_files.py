"""Weight files that are open for reading, and which files these are."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from foundryrt.bundle.schema import Manifest, WeightFile
from foundryrt.errors import FoundryError
from foundryrt.weights import WeightsChanged, find_file


class FileState(NamedTuple):
    """Which file it is, and since when it has been as it is, as the system says.

    Ranks that share out the digests of one file compare it before they read and afterwards, and a
    session whether the file that it has compared is still the one that another bundle is to read.
    """

    device: int
    inode: int
    size: int
    changed: int
    """Time of the last change (ctime, nanoseconds), which no program can set."""

    @classmethod
    def of(cls, found: os.stat_result) -> FileState:
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns)


_PACKED = struct.Struct("<3Qq")


def packed(states: Iterable[FileState]) -> bytes:
    """For another process of this machine; `unpacked` has it back."""
    return b"".join(_PACKED.pack(*state) for state in states)


def unpacked(data: bytes | memoryview) -> list[FileState]:
    return [FileState(*values) for values in _PACKED.iter_unpack(data)]


def file_states(manifest: Manifest, folder: Path | None) -> list[FileState]:
    """The state of each weight file; errors are those of `find_file`."""
    return [_state(file, folder) for file in manifest.weights.files]


def states_by_name(manifest: Manifest, folder: Path | None) -> dict[str, FileState]:
    """The state of each weight file that is there, by its name."""
    found = {}
    for file in manifest.weights.files:
        with suppress(FoundryError, OSError):
            found[file.name] = _state(file, folder)
    return found


def _state(file: WeightFile, folder: Path | None) -> FileState:
    return FileState.of(find_file(file, folder).stat())


class OpenFile:
    """A file that any thread can read at any offset; FoundryError where it cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise self._unreadable(error) from error
        self.descriptor = self._file.fileno()

    def close(self) -> None:
        """What was mapped stays."""
        self._file.close()

    def read(self, offset: int, into: memoryview) -> None:
        """Fill `into` with the file's bytes from `offset` on; WeightsChanged where it ends."""
        while into:
            try:
                count = os.preadv(self.descriptor, [into], offset)
            except OSError as error:
                raise self._unreadable(error) from error
            if count == 0:
                raise WeightsChanged(f"weights: {self.path} ends at byte {offset}; it was cut off")
            offset, into = offset + count, into[count:]

    @cached_property
    def mapped(self) -> memoryview:
        """The file's bytes."""
        try:
            return memoryview(mmap.mmap(self.descriptor, 0, access=mmap.ACCESS_READ))
        except OSError as error:
            raise self._unreadable(error) from error

    def check_state(self, known: FileState) -> None:
        """WeightsChanged where it is another file than rank 0 has seen, or was changed since."""
        if FileState.of(os.fstat(self.descriptor)) != known:
            raise WeightsChanged(
                f"weights: {self.path} is not the file that rank 0 has there, or was changed"
                " meanwhile; leave weight files as they are while ranks load them"
            )

    def _unreadable(self, error: OSError) -> FoundryError:
        return FoundryError(f"weights: {self.path} cannot be read: {error.strerror}")


def check_states(files: Sequence[OpenFile], known: Sequence[FileState] | None) -> None:
    """`OpenFile.check_state` of each file, where it is known what they should be."""
    if known is not None:
        for file, state in zip(files, known, strict=True):
            file.check_state(state)


def map_file(path: Path) -> memoryview:
    """The file's bytes, mapped."""
    file = OpenFile(path)
    try:
        return file.mapped
    finally:
        file.close()
