"""Digests of large files, kept between processes: a key need not read a model's weights each time.

A digest holds for a file as the file system describes it: device, inode, size, and the times of the
last change to its contents and to its inode. A bundle has digests of its own of every weight that
it reads, which a start compares, so a file changed behind its times' back is noticed there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from foundryrt.atomic import AtomicFile
from foundryrt.errors import FoundryError
from foundryrt.remote.local import user_folder

LEAST = 64 << 20
"""Smaller files are read in no time."""
_SETTLED_NS = 2 * 10**9
"""A file changed so shortly ago may change again within the resolution of its times."""


def remembered(path: Path, identity: tuple[int, ...], compute: Callable[[], str]) -> str:
    """The SHA-256 of the file at `path`, in hexadecimal; `compute` gives it where nobody knows.

    `identity` is (device, inode, bytes, modification and change times in ns). Where the user's
    cache folder cannot be used, nothing is kept.
    """
    size, *times = identity[2:]
    if size < LEAST or time.time_ns() - max(times) < _SETTLED_NS:
        return compute()
    try:
        name = hashlib.sha256(os.fsencode(path) + repr(identity).encode()).hexdigest()[:32]
        kept = user_folder("digests") / name
    except FoundryError:
        return compute()
    with contextlib.suppress(OSError, ValueError):
        known = kept.read_text("ascii")
        if re.fullmatch("[0-9a-f]{64}", known):
            return known
    digest = compute()
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        with AtomicFile(kept) as out:
            out.file.write(digest.encode())
            out.commit()
    return digest
