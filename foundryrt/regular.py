"""Opening a file that must be a regular one: reading a pipe or a device may never end."""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

from foundryrt.errors import UsageError


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """A file open for reading.

    OSError where it cannot be opened, UsageError where it is not a regular file.
    """
    mode = os.stat(path).st_mode  # first: opening a pipe waits for somebody to write into it
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path}: is not a regular file")
    return open(path, "rb")
