"""A folder as a store: entries appear by rename, claims are file locks that end with a process."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from contextlib import AbstractContextManager
from pathlib import Path

from filelock import FileLock, Timeout

from foundryc.cache.entry import admitted_copy
from foundryc.cache.errors import Poisoned, Unreachable
from foundryc.cache.stores.base import SUFFIX, Entry, check_key, key_in
from foundryrt.errors import FoundryError


class LocalStore:
    """`<folder>/<key>.fdy`, with locks and unfinished entries in `<folder>/.locks` and `.new`."""

    writable = True

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).expanduser()
        self.url = str(folder)
        try:
            for name in (".locks", ".new"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unreachable(f"cache {self.url}: {error.strerror}") from error

    def _path(self, key: str) -> Path:
        return self.folder / (check_key(key) + SUFFIX)

    def fetch(self, key: str, path: Path) -> bool:
        """As in Store; marks the entry as used."""
        entry = self._path(key)
        try:
            # Neither a link to elsewhere nor a pipe that would never end is an entry.
            if not stat.S_ISREG(os.lstat(entry).st_mode):
                raise Poisoned(f"cache entry {key[:16]}… is refused: it is no plain file")
            admitted_copy(entry, key, path)
            with contextlib.suppress(OSError):
                os.utime(entry)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise FoundryError(f"{path}: cannot be written: {error.strerror}") from error
        return True

    def put(self, key: str, path: Path) -> None:
        """As in Store; one killed writer's remains are the next one's to overwrite."""
        new = self.folder / ".new" / check_key(key)
        try:
            with open(path, "rb") as source, open(new, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 22)
                target.flush()
                os.fsync(target.fileno())
            os.replace(new, self._path(key))
            self._sync()
        except OSError as error:
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)
            raise Unreachable(f"cache {self.url}: cannot be written: {error.strerror}") from error

    def _sync(self) -> None:
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def claim(self, key: str) -> AbstractContextManager[object] | None:
        """As in Store: the kernel frees the lock of a killed process."""
        lock = FileLock(self.folder / ".locks" / check_key(key))
        try:
            return lock.acquire(blocking=False)
        except Timeout:
            return None
        except OSError as error:
            raise Unreachable(f"cache {self.url}: {error.strerror}") from error

    def entries(self) -> list[Entry]:
        """As in Store."""
        found = []
        for item in os.scandir(self.folder):
            key = key_in(item.name)
            with contextlib.suppress(FileNotFoundError):
                status = item.stat(follow_symlinks=False)
                if key:
                    found.append(Entry(key, status.st_size, status.st_mtime))
        return found

    def evict(self, key: str) -> None:
        """As in Store; takes the remains of a killed writer along."""
        try:
            path = self._path(key)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            (self.folder / ".new" / key).unlink(missing_ok=True)
        except OSError as error:
            raise Unreachable(f"cache {self.url}: {error.strerror}") from error

    def clean(self) -> None:
        """Remove what killed writers left; a writer that lives holds its claim."""
        for name in os.listdir(self.folder / ".new"):
            if key_in(name + SUFFIX) and (claim := self.claim(name)) is not None:
                with claim, contextlib.suppress(OSError):
                    (self.folder / ".new" / name).unlink(missing_ok=True)
