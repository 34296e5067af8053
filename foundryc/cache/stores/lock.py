"""Locks by file that end with their process; the file stays, for the next process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress


def try_lock(folder: int, name: str) -> AbstractContextManager[object] | None:
    """The lock `name` in an open folder, held until it is left; None while another has it.

    A link in its place is not followed. OSError where the folder cannot be written to.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    file = os.open(name, flags, 0o666, dir_fd=folder)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    except OSError:
        os.close(file)
        raise
    return _held(file)


def open_folder(path: str | os.PathLike[str]) -> int:
    """An open folder, made where it is missing; OSError for a link or anything else there."""
    with suppress(FileExistsError):
        os.mkdir(path)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


@contextmanager
def _held(file: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(file)
