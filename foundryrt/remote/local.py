"""This machine's side of a transfer: the user's folder, and writing into a file in place."""

from __future__ import annotations

import os
from pathlib import Path


def user_folder(name: str) -> Path:
    """`foundry/<name>` in the user's cache folder, which XDG_CACHE_HOME may move."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "foundry" / name


def write_at(file: int, data: bytes | bytearray | memoryview, at: int) -> None:
    """All of `data` into an open file from byte `at` on; OSError where the disk fails."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, at)
        view, at = view[written:], at + written
