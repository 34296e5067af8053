"""A folder as a store: entries appear by rename, claims are file locks that end with a process."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from foundryc.cache.entry import admitted_copy
from foundryc.cache.errors import NotWritable, Poisoned, Unreachable
from foundryc.cache.stores.base import SUFFIX, Entry, check_key, key_in
from foundryc.cache.stores.lock import open_folder, try_lock
from foundryc.cache.stores.machine import claim_here
from foundryrt.errors import FoundryError, UsageError

_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class LocalStore:
    """`<folder>/<key>.fdy`, with locks and unfinished entries in `<folder>/.locks` and `.new`.

    The folders are made by the first process that writes; one that reads needs none of them.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """UsageError where something else than a folder is there."""
        self.folder = Path(folder).expanduser()
        self.url = str(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"cache {folder}: is a file; name a folder, or a URL")

    @property
    def writable(self) -> bool:
        """Whether this user may put entries into the folder; a missing one is made."""
        return not self.folder.exists() or os.access(self.folder, os.W_OK)

    def _path(self, key: str) -> Path:
        return self.folder / (check_key(key) + SUFFIX)

    def fetch(self, key: str, path: Path) -> bool:
        """As in Store; marks the entry as used."""
        entry = self._path(key)
        try:
            # Neither a link to elsewhere nor a pipe that would never end is an entry.
            if not stat.S_ISREG(os.lstat(entry).st_mode):
                raise Poisoned(f"cache entry {key[:16]}… is refused: it is no plain file")
        except FileNotFoundError:
            return False
        except OSError as error:
            raise Unreachable(f"cache {self.url}: {error.strerror}") from error
        try:
            admitted_copy(entry, key, path)
        except FileNotFoundError:
            return False  # Evicted meanwhile.
        except OSError as error:
            raise FoundryError(f"{path}: cannot be written: {error.strerror}") from error
        with contextlib.suppress(OSError):
            os.utime(entry)
        return True

    def put(self, key: str, path: Path) -> None:
        """As in Store; one killed writer's remains are the next one's to overwrite."""
        check_key(key)
        with self._inside(".new") as new:
            try:
                self._discard(new, key)
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                target_file = os.open(key, flags, 0o666, dir_fd=new)
                with open(path, "rb") as source, open(target_file, "wb") as target:
                    shutil.copyfileobj(source, target, 1 << 22)
                    target.flush()
                    os.fsync(target.fileno())
                os.replace(key, self._path(key), src_dir_fd=new)
                self._sync()
            except OSError:
                with contextlib.suppress(OSError):
                    self._discard(new, key)
                raise

    @contextmanager
    def _inside(self, name: str) -> Iterator[int]:
        """A folder of ours, open; NotWritable or Unreachable where it or what follows fails."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            inner = open_folder(self.folder / name)
            try:
                yield inner
            finally:
                os.close(inner)
        except OSError as error:
            kind = NotWritable if error.errno in _READ_ONLY else Unreachable
            raise kind(f"cache {self.url}: cannot be written: {error.strerror}") from error

    def _discard(self, new: int, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(key, dir_fd=new)

    def _sync(self) -> None:
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def claim(self, key: str) -> AbstractContextManager[object] | None:
        """As in Store: the kernel frees the lock of a killed process.

        Where the folder can only be read, among the processes of this machine.
        """
        check_key(key)
        try:
            with self._inside(".locks") as locks:
                return try_lock(locks, key)
        except NotWritable:
            return claim_here(self.url, key)

    def entries(self) -> list[Entry]:
        """As in Store; UsageError where the folder is missing."""
        found = []
        try:
            for item in os.scandir(self.folder):
                key = key_in(item.name)
                with contextlib.suppress(FileNotFoundError):
                    status = item.stat(follow_symlinks=False)
                    if key:
                        found.append(Entry(key, status.st_size, status.st_mtime))
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(f"cache {self.url}: no such folder") from None
        except OSError as error:
            raise Unreachable(f"cache {self.url}: {error.strerror}") from error
        return found

    def evict(self, key: str) -> None:
        """As in Store; takes the remains of a killed writer along."""
        path = self._path(key)
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            kind = NotWritable if error.errno in _READ_ONLY else Unreachable
            raise kind(f"cache {self.url}: {error.strerror}") from error
        if (self.folder / ".new").exists():
            with self._inside(".new") as new:
                self._discard(new, key)

    def clean(self) -> None:
        """Remove what killed writers left; a writer that lives holds its claim."""
        if not (self.folder / ".new").exists():
            return
        with self._inside(".new") as new:
            for name in os.listdir(new):
                if key_in(name + SUFFIX) and (claim := self.claim(name)) is not None:
                    with claim, contextlib.suppress(OSError):
                        self._discard(new, name)
