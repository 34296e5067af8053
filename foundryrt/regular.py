"""Files that must be regular ones, and outputs that must be none of the inputs."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from foundryrt.errors import UsageError


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """A file open for reading: reading a pipe or a device may never end.

    OSError where it cannot be opened, UsageError where it is not a regular file.
    """
    mode = os.stat(path).st_mode  # first: opening a pipe waits for somebody to write into it
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path}: is not a regular file")
    return open(path, "rb")


def refuse_input(what: str, path: str | os.PathLike[str], inputs: Iterable[Path]) -> None:
    """UsageError where the output `path`, named by `what`, is one of the files that are read."""
    output = Path(path)
    for read in inputs:
        if output.exists() and read.exists() and output.samefile(read):
            raise UsageError(f"{what} {output}: is read, and would be replaced; name another file")
