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

from foundryrt.bundle.errors import SectionDigestMismatch
from foundryrt.bundle.layout import HEADER_BYTES, unpack_header, unpack_table
from foundryrt.errors import Denied, FoundryError, Unreachable, UsageError, install
from foundryrt.remote import attempts
from foundryrt.remote.attempts import Read, attempt
from foundryrt.remote.local import split_url, user_folder, without_query, write_at

if TYPE_CHECKING:
    from foundryrt.bundle.layout import Section

_PREFIX, _PART = "foundry-", ".part"
_LOG = logging.getLogger("foundry")


def folder() -> Path:
    """Where copies are kept: `foundry/bundles` in the user's cache folder."""
    return user_folder("bundles")


def complete_copy(url: str) -> Path:
    """Where the complete copy of `url` is or would be; a signed URL has another query each time."""
    return folder() / (hashlib.sha256(without_query(url).encode()).hexdigest()[:32] + ".fdy")


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
    whole bundle by digests, is used as it is, and also where the server cannot be reached. That
    does not hold for a URL with a query, which may name one of many files. Where the user's folder
    cannot be written to, the copy is a temporary file of this process.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._name = without_query(url)
        self._read, self._failures = _reader(url)
        self._file = -1
        """The file that is written to, as long as anybody may fetch into it."""
        self.complete = True
        """Whether nothing has to be fetched any more."""
        self._there: set[int] = set()
        self._locks: dict[int, threading.Lock] = {}
        self._state = threading.Condition()
        self._urgent = 0
        self._kept = True
        self._filling = False
        done = _readable_copy(url)
        try:
            header = self._range(0, HEADER_BYTES)
        except Denied:
            raise
        except Unreachable as error:
            if done is None or "?" in url:
                raise
            _LOG.warning("%s; using the copy of an earlier run", error)
            self.path = done
            return
        if done is not None and _head(done) == header:
            self.path = done
            return
        self._begin(header)

    def _begin(self, header: bytes) -> None:
        """A sparse file of the bundle's length with its header and table."""
        length = int.from_bytes(header[16:24], "little")
        table = unpack_header(header, length)
        self._open(length)
        try:
            data = self._range(table.table_offset, length)
            unpack_table(data, table)
            os.ftruncate(self._file, length)
            self._write(data, table.table_offset)
            self._write(header, 0)
        except BaseException:
            self.discard()
            raise

    def _open(self, length: int) -> None:
        """An empty file that is locked, so that nobody takes it for a dead process's."""
        try:
            where = folder()
            where.mkdir(parents=True, exist_ok=True)
            self._file, name = tempfile.mkstemp(_PART, _PREFIX, where)
        except (OSError, FoundryError) as error:
            why = getattr(error, "strerror", None) or str(error)
            _LOG.warning("the copy of %s is not kept: %s", self._name, why)
            where, self._kept = Path(tempfile.gettempdir()), False
            try:
                self._file, name = tempfile.mkstemp(_PART, _PREFIX, where)
            except OSError as error:
                raise FoundryError(f"{where}: cannot be written: {error.strerror}") from error
        weakref.finalize(self, os.close, self._file)
        self.path, self.complete = Path(name), False
        if not self._kept:
            weakref.finalize(self, self.path.unlink, missing_ok=True)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # In a folder for all, files of other programs may end alike.
            _remove_remains(where, "*" + _PART if self._kept else f"{_PREFIX}*{_PART}")
            free = shutil.disk_usage(where).free
        except OSError as error:
            self.discard()
            raise FoundryError(f"{where}: cannot be written: {error.strerror}") from error
        # Before anything is fetched: a lying header must not fill the disk.
        if length > free:
            self.discard()
            raise FoundryError(f"{where}: no space for {length} bytes of {self._name}")

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
            if not self._kept:
                self.complete = True
                return
            with opening:
                os.replace(self.path, complete_copy(self.url))
                self.path, self.complete = complete_copy(self.url), True
        except (FoundryError, OSError) as error:
            _LOG.warning("%s is not kept here: %s", self._name, error)
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
                raise SectionDigestMismatch(f"{section} does not match its SHA-256").at(self._name)
            self._write(data, section.offset)
            self._there.add(index)

    def _range(self, start: int, end: int) -> bytes:
        try:
            data = attempt(self._name, lambda: self._read(start, end), self._failures)
        except FileNotFoundError:
            raise UsageError(f"{self._name}: no such file") from None
        if len(data) != end - start:
            raise FoundryError(
                f"{self._name}: {len(data)} bytes where {end - start} were asked for"
            )
        return data

    def _write(self, data: bytes | bytearray, at: int) -> None:
        try:
            write_at(self._file, data, at)
        except OSError as error:
            raise FoundryError(f"{self.path}: cannot be written: {error.strerror}") from error


def _readable_copy(url: str) -> Path | None:
    with contextlib.suppress(FoundryError, OSError):
        path = complete_copy(url)
        if os.access(path, os.R_OK):
            return path
    return None


def _reader(url: str) -> tuple[Read, tuple[type[BaseException], ...]]:
    parts = split_url(url)
    web = parts.scheme in ("http", "https")
    if "@" in parts.netloc or parts.fragment or (parts.query and not web):
        # Without the URL itself: what it holds may be a secret.
        raise UsageError(f"a {parts.scheme} URL may hold no user, password or fragment")
    try:
        if web:
            from foundryrt.remote import http

            ranges = http.HttpRanges()
            return lambda start, end: ranges.read(url, start, end), http.FAILURES
        if parts.scheme == "s3" and parts.netloc and parts.path.strip("/"):
            from foundryrt.remote import s3

            bucket, name = s3.S3Bucket(parts.netloc), parts.path.lstrip("/")
            return lambda start, end: bucket.read(name, start, end), s3.FAILURES
    except ModuleNotFoundError as error:
        raise UsageError(f"{without_query(url)}: needs {error.name}; {install('cache')}") from error
    raise UsageError(
        f"{without_query(url)}: run a bundle from http(s)://…, file:///… or s3://bucket/name; fetch"
        " others with `foundryc cache get`"
    )


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(HEADER_BYTES)


def _remove_remains(where: Path, form: str) -> None:
    """Remove what killed processes left; a living one holds a lock on its file."""
    for path in where.glob(form):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
