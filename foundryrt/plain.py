"""Opening a file that must be one: reading a pipe or a device may never end."""

from __future__ import annotations

import os
import stat
from typing import BinaryIO

from foundryrt.errors import UsageError


def open_plain(path: str | os.PathLike[str]) -> BinaryIO:
    """A file open for reading; OSError where it cannot be, UsageError where it is no plain file."""
    # Without waiting for somebody to write into a pipe.
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UsageError(f"{path}: is no plain file")
    return file
