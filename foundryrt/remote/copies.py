"""Local copies of bundles that lie on other machines, fetched section by section, each checked."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from foundryrt.bundle.errors import SectionDigestMismatch
from foundryrt.bundle.layout import HEADER_BYTES, unpack_header, unpack_table
from foundryrt.errors import FoundryError, Unreachable, UsageError, install
from foundryrt.remote import attempts
from foundryrt.remote.attempts import Read, attempt
from foundryrt.remote.local import user_folder, write_at

if TYPE_CHECKING:
    from foundryrt.bundle.layout import Section

_LOG = logging.getLogger("foundry")


def folder() -> Path:
    """Where copies are kept: `foundry/bundles` in the user's cache folder."""
    return user_folder("bundles")


def complete_copy(url: str) -> Path:
    """Where the complete copy of `url` is or would be."""
    return folder() / (hashlib.sha256(url.encode()).hexdigest()[:32] + ".fdy")


_begun: dict[str, Copy] = {}
opening = threading.RLock()
"""Held while a copy is found and mapped: its path changes when it is complete."""


def copy_of(url: str) -> Copy:
    """The copy of `url`: one a process, however often it is opened. Called under `opening`."""
    if url not in _begun:
        _begun[url] = Copy(url)
    return _begun[url]


class Copy:
    """A copy that is complete, or one that holds what `fetch` has brought.

    It asks the server for the header first: a complete copy with the same header, which covers the
    whole bundle by digests, is used as it is, and also where the server cannot be reached.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._read, self._failures = _reader(url)
        self._file = -1
        """The file that is written to, as long as anybody may fetch into it."""
        self.complete = True
        """Whether nothing has to be fetched any more."""
        self._there: set[int] = set()
        self._locks: dict[int, threading.Lock] = {}
        self._state = threading.Condition()
        self._urgent = 0
        self._filling = False
        done = complete_copy(url)
        try:
            header = self._range(0, HEADER_BYTES)
        except Unreachable as error:
            if not done.exists():
                raise
            _LOG.warning("%s; using the copy of an earlier run", error)
            self.path = done
            return
        if done.exists() and _head(done) == header:
            self.path = done
            return
        self._begin(header)

    def _begin(self, header: bytes) -> None:
        """A sparse file of the bundle's length with its header and table."""
        length = int.from_bytes(header[16:24], "little")
        table = unpack_header(header, length)
        try:
            folder().mkdir(parents=True, exist_ok=True)
            _remove_remains(folder())
            # Before anything is fetched: a lying header must not fill the disk.
            if length > shutil.disk_usage(folder()).free:
                raise FoundryError(f"{folder()}: no space for {length} bytes of {self.url}")
            self._file, name = tempfile.mkstemp(".part", dir=folder())
            weakref.finalize(self, os.close, self._file)
            self.path, self.complete = Path(name), False
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FoundryError(f"{folder()}: cannot be written: {error.strerror}") from error
        try:
            data = self._range(table.table_offset, length)
            unpack_table(data, table)
            os.ftruncate(self._file, length)
            self._write(data, table.table_offset)
            self._write(header, 0)
        except BaseException:
            self.discard()
            raise

    def fetch(self, index: int, section: Section) -> None:
        """Bring a section in, checked, unless it is there; ahead of the background's work.

        SectionDigestMismatch, Unreachable, FoundryError where the disk fails.
        """
        with self._state:
            self._urgent += 1
        try:
            self._fetch(index, section)
        finally:
            with self._state:
                self._urgent -= 1
                self._state.notify_all()

    def fill(self, sections: Sequence[Section]) -> None:
        """Fetch all that is missing in the background; then the copy is the complete one.

        The process does not end before that. A failure is logged; a caller that needs
        a section gets it raised.
        """
        if not self.complete and not self._filling:
            self._filling = True
            threading.Thread(target=self._fill, args=(tuple(sections),)).start()

    def discard(self) -> None:
        """Forget the copy; an incomplete file exists until it is closed everywhere."""
        _begun.pop(self.url, None)
        if not self.complete:
            self.path.unlink(missing_ok=True)

    def _fill(self, sections: tuple[Section, ...]) -> None:
        try:
            for index, section in enumerate(sections):
                with self._state:
                    self._state.wait_for(lambda: self._urgent == 0)
                self._fetch(index, section)
            os.fsync(self._file)
            with opening:
                os.replace(self.path, complete_copy(self.url))
                self.path, self.complete = complete_copy(self.url), True
        except (FoundryError, OSError) as error:
            _LOG.warning("%s is not kept here: %s", self.url, error)
            with opening:
                self.discard()

    def _fetch(self, index: int, section: Section) -> None:
        with self._state:
            lock = self._locks.setdefault(index, threading.Lock())
        with lock:
            if index in self._there:
                return
            data = bytearray()
            end = section.offset + section.stored
            for start in range(section.offset, end, attempts.LIMITS.chunk):
                data += self._range(start, min(start + attempts.LIMITS.chunk, end))
            if hashlib.sha256(data).digest() != section.sha256:
                raise SectionDigestMismatch(f"{self.url}: {section} does not match its SHA-256")
            self._write(data, section.offset)
            self._there.add(index)

    def _range(self, start: int, end: int) -> bytes:
        try:
            data = attempt(self.url, lambda: self._read(start, end), self._failures)
        except FileNotFoundError:
            raise UsageError(f"{self.url}: no such file") from None
        if len(data) != end - start:
            raise FoundryError(f"{self.url}: {len(data)} bytes where {end - start} were asked for")
        return data

    def _write(self, data: bytes | bytearray, at: int) -> None:
        try:
            write_at(self._file, data, at)
        except OSError as error:
            raise FoundryError(f"{folder()}: cannot be written: {error.strerror}") from error


def _reader(url: str) -> tuple[Read, tuple[type[BaseException], ...]]:
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        # Without the URL itself: what it holds may be a secret.
        raise UsageError(f"a {parts.scheme} URL may hold no user, password, query or fragment")
    try:
        if parts.scheme in ("http", "https"):
            from foundryrt.remote import http

            ranges = http.HttpRanges()
            return lambda start, end: ranges.read(url, start, end), http.FAILURES
        if parts.scheme == "s3" and parts.netloc and parts.path.strip("/"):
            from foundryrt.remote import s3

            bucket, name = s3.S3Bucket(parts.netloc), parts.path.lstrip("/")
            return lambda start, end: bucket.read(name, start, end), s3.FAILURES
    except ModuleNotFoundError as error:
        raise UsageError(f"{url}: needs {error.name}; {install('cache')}") from error
    raise UsageError(
        f"{url}: run a bundle from http(s)://… or s3://bucket/name; fetch others with"
        " `foundryc cache get`"
    )


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(HEADER_BYTES)


def _remove_remains(where: Path) -> None:
    """Remove what killed processes left; a living one holds a lock on its file."""
    for path in where.glob("*.part"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
