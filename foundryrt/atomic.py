"""A file is written under a temporary name, then renamed: no reader sees half of it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from foundryrt.errors import FoundryError, UsageError

_LINKS = 40
"""That are followed, as by the system."""
_AGE = 3600.0
"""Seconds after which a temporary file that no process holds is what a killed one left."""


class AtomicFile:
    """Write to `file`, then `commit`. Left without a commit, nothing remains.

    A link stays a link, to the new file. What killed writers of the same file left is removed. The
    OSErrors of opening and committing are the caller's to explain.
    """

    def __init__(self, path: Path) -> None:
        if path.exists() and not path.is_file():
            # A device would be replaced by a file.
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        self.path, self._place = path, place(path)
        remove_remains(self._place)
        self.temporary = temporary_name(self._place)
        try:
            self.file = open(self.temporary, "xb")  # noqa: SIM115 (closed by __exit__)
        except OSError as error:
            error.filename = str(path)  # the name that somebody gave
            raise
        hold(self.file.fileno())

    def __enter__(self) -> AtomicFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, OSError) and error.filename in (None, str(self.temporary)):
            error.filename = str(self.path)  # the name that somebody gave
        # A close may fail on a full disk; the temporary file goes in any case.
        with contextlib.suppress(OSError):
            self.file.close()
        self.temporary.unlink(missing_ok=True)

    def sync(self) -> None:
        """Have everything on the disk, so that `temporary` can be read back."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def commit(self) -> None:
        """Rename the file to its path, for good."""
        self.sync()
        self.file.close()
        os.replace(self.temporary, self._place)
        folder = os.open(self._place.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def place(path: Path) -> Path:
    """Where a file of that name is or will be: where it leads, if it is a link.

    UsageError for a link to what a process has open, such as /dev/stdout; OSError for one that
    leads to a folder, or nowhere.
    """
    found = path
    for _ in range(_LINKS):
        if not found.is_symlink():
            return found
        if Path(os.path.realpath(found.parent)).is_relative_to("/proc"):
            raise UsageError(f"{path}: is what a process has open; name a file")
        target = os.readlink(found)
        if os.path.basename(target) in ("", ".", ".."):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        found = found.parent / target
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Have an OSError of the block be a FoundryError of `path`, the name that somebody gave."""
    try:
        yield
    except OSError as error:
        raise FoundryError(f"{path}: cannot be written: {error.strerror}") from error


def check_output(path: Path, example: str = "model.fdy") -> None:
    """UsageError or FoundryError where no file, such as `example`, can be put at `path`."""
    with writing(path):  # its name may be too long
        target = place(path)
        folder = target.parent
        if not folder.is_dir():
            raise UsageError(f"{path}: the folder {folder} does not exist")
        if target.is_dir():
            raise UsageError(f"{path}: is a folder; name a file such as {example}")
        if target.exists() and not target.is_file():
            raise UsageError(f"{path}: is not a regular file; name one such as {example}")
        if not os.access(folder, os.W_OK):
            raise FoundryError(f"{path}: the folder {folder} cannot be written to")
        with contextlib.suppress(FileNotFoundError):
            temporary_name(target).lstat()


def temporary_name(path: Path) -> Path:
    """A new name beside `path` that `remove_remains` knows."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def hold(file: int) -> None:
    """Show that an open file or folder has a living process, as long as it is open."""
    # A file system without locks leaves the age alone to tell.
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def remove_remains(path: Path) -> None:
    """Remove the temporary files and folders for `path` that are old and that nobody holds."""
    form = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{12}}\.tmp")
    with contextlib.suppress(OSError), os.scandir(path.parent) as items:
        for item in items:
            if form.fullmatch(item.name):
                with contextlib.suppress(OSError):
                    _remove_if_dead(Path(item.path))


def _remove_if_dead(path: Path) -> None:
    if time.time() - path.lstat().st_mtime < _AGE:
        return
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    finally:
        os.close(file)
