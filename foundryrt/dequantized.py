"""Dequantized weights, kept in the user's cache folder: each start would dequantize them again.

An entry is one stored tensor in one dtype, named by the digest of its quantized bytes. It is used
only where it is this user's own file, in a folder that nobody else can write to, and its bytes
have the digest that was noted with them. Whatever does not hold, or fails, costs time alone:
the tensor is dequantized as if there were no entry.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import mmap
import os
import shutil
import stat
import threading
import time
from dataclasses import dataclass, field
from importlib import metadata
from math import inf
from pathlib import Path

import msgspec
import numpy as np
from blake3 import blake3

from foundryrt.atomic import temporary_name
from foundryrt.bundle.schema import DTYPES, WeightSource
from foundryrt.convert import AnyArray, decode_source, storage_dtype
from foundryrt.errors import FoundryError, UsageError
from foundryrt.remote.local import user_folder

LIMIT = "FOUNDRY_DEQUANTIZED_GB"
"""The environment's variable for the folder's size; 0 turns it off."""
_LIMIT_GB = 8.0
_IDLE = 3600.0
"""Seconds without use after which an entry may make room for another. What a model needs that is
larger than the folder must not drive out its own entries on every start."""
_HEAD = 64
"""Bytes before the values: their BLAKE3 digest, then zeros."""
_LOG = logging.getLogger("foundry")


def decode_kept(source: WeightSource, data: memoryview, dtype: str, keep: bool = True) -> AnyArray:
    """As `decode_source`, of bytes that have the source's digest; the array may be read-only.

    `keep=False` where another rank compares the digest: what is there is used, and nothing kept.
    """
    if source.dtype in DTYPES or (found := _folder()) is None:
        return decode_source(source, data, dtype)
    name = _name(source, dtype)
    values = found.read(name, source.rows, source.columns, dtype)
    if values is None:
        values = decode_source(source, data, dtype)
        if keep:
            found.keep(name, values)
    return values


def limit_bytes() -> int:
    """What the folder may hold; UsageError where the variable is no number."""
    text = os.environ.get(LIMIT) or str(_LIMIT_GB)
    try:
        size = float(text)
    except ValueError:
        size = -1
    if not 0 <= size < inf:
        raise UsageError(f"{LIMIT}={text}: a number of GB is needed, 0 to keep nothing")
    return int(size * 1e9)


@dataclass
class Folder:
    """Entries of one user; of any threads."""

    path: Path
    limit: int
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _size: int = -1
    """Bytes of all entries; -1 until they were counted."""
    _failed: bool = False

    def read(self, name: str, rows: int, columns: int, dtype: str) -> AnyArray | None:
        """The values [rows, columns], mapped; None where there is no entry to rely on."""
        path, kind = self.path / name, storage_dtype(dtype)
        try:
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            length = rows * columns * kind.itemsize
            found = os.fstat(file)
            if not (self._own() and _mine(found) and stat.S_ISREG(found.st_mode)):
                return None
            if found.st_size == _HEAD + length:
                view = memoryview(mmap.mmap(file, 0, access=mmap.ACCESS_READ))
                if _head(view[_HEAD:]) == view[:_HEAD]:
                    os.utime(file)
                    return np.frombuffer(view[_HEAD:], kind).reshape(rows, columns)
            # Damaged, by a full disk or a crash: nothing was waited for when it was written.
            path.unlink(missing_ok=True)
        except (OSError, ValueError):
            pass
        finally:
            os.close(file)
        return None

    def keep(self, name: str, values: AnyArray) -> None:
        """Keep `values` under `name`, if there is room; a failure is logged, once."""
        data = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
        try:
            with self._lock:
                if self._failed or not self._make_room(_HEAD + len(data)):
                    return
            self._write(self.path / name, data)
        except (OSError, FoundryError) as error:
            if not self._failed:
                self._failed = True
                _LOG.warning("dequantized weights are not kept: %s", error)

    def _write(self, path: Path, data: memoryview) -> None:
        temporary = temporary_name(path)
        try:
            number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(number, "wb") as file:
                file.write(_head(data))
                file.write(data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, size: int) -> bool:
        """Whether an entry of `size` bytes fits, once others that nobody uses are gone."""
        if self._size < 0:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._own():
                raise FoundryError(f"{self.path} is another user's, or others can write to it")
            self._size = sum(found.st_size for _, found in self._entries())
        if self._size + size > self.limit:
            self._evict(size)
        fits = self._size + size <= self.limit and size * 2 < shutil.disk_usage(self.path).free
        self._size += size if fits else 0
        return fits

    def _evict(self, size: int) -> None:
        """Remove entries that were not used lately, the longest unused first.

        What killed writers left is among them.
        """
        entries = sorted(self._entries(), key=lambda entry: entry[1].st_mtime)
        self._size = sum(found.st_size for _, found in entries)
        for path, found in entries:
            if self._size + size <= self.limit or time.time() - found.st_mtime < _IDLE:
                return
            path.unlink(missing_ok=True)
            self._size -= found.st_size

    def _entries(self) -> list[tuple[Path, os.stat_result]]:
        entries = []
        with os.scandir(self.path) as items:
            for item in items:
                with contextlib.suppress(FileNotFoundError):
                    entries.append((Path(item.path), item.stat(follow_symlinks=False)))
        return entries

    def _own(self) -> bool:
        """Whether only this user can put entries here."""
        found = self.path.lstat()
        return stat.S_ISDIR(found.st_mode) and _mine(found)


def _folder() -> Folder | None:
    limit = limit_bytes()
    if not limit:
        return None
    try:
        return _opened(user_folder("weights"), limit)
    except FoundryError:
        return None


@functools.cache
def _opened(path: Path, limit: int) -> Folder:
    return Folder(path, limit)


def _name(source: WeightSource, dtype: str) -> str:
    """One for each outcome of dequantizing."""
    what = (
        source.blake3, source.sha256, source.dtype, source.rows, source.columns, dtype, _version()
    )  # fmt: skip
    return blake3(msgspec.msgpack.encode(what)).hexdigest()


@functools.cache
def _version() -> str:
    try:
        return metadata.version("gguf")
    except metadata.PackageNotFoundError:
        return ""


def _head(data: memoryview) -> bytes:
    return blake3(data, max_threads=blake3.AUTO).digest().ljust(_HEAD, b"\0")


def _mine(found: os.stat_result) -> bool:
    """Whether a file is this user's, and nobody else may write to it."""
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
