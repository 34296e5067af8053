"""A file is written under a temporary name, then renamed: no reader sees half of it."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path
from types import TracebackType


class AtomicFile:
    """Write to `file`, then `commit`. Left without a commit, nothing remains.

    The OSErrors of opening and committing are the caller's to explain.
    """

    def __init__(self, path: Path) -> None:
        if path.exists() and not path.is_file():
            # A device would be replaced by a file.
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        self.path = path
        self.temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
        self.file = open(self.temporary, "xb")  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> AtomicFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
        os.replace(self.temporary, self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
