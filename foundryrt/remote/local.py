"""This machine's side of a transfer: the user's folder, `file://`, and writing in place."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from foundryrt.errors import FoundryError, UsageError


def user_folder(name: str) -> Path:
    """`foundry/<name>` in the user's cache folder, which XDG_CACHE_HOME may move.

    FoundryError where the user has no home.
    """
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(home) if home else Path.home() / ".cache") / "foundry" / name
    except RuntimeError:
        raise FoundryError("there is no home folder; set XDG_CACHE_HOME") from None


def split_url(url: str) -> SplitResult:
    """The parts of a URL, or of a path; UsageError where it is neither."""
    try:
        return urlsplit(url)
    except ValueError as error:
        raise UsageError(f"{without_query(url)}: no URL: {error}") from None


def file_path(url: str) -> Path | None:
    """The path that a `file://` URL names; None for another URL, UsageError for another host."""
    parts = split_url(url)
    if parts.scheme.lower() != "file" or "://" not in url:
        return None
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise UsageError(f"{url}: write file:///folder/name, with %3F for ? and %23 for #")
    return Path(unquote(parts.path))


def without_query(url: str) -> str:
    """A URL as it may be shown and stored: its query may be a secret, such as a signature."""
    return url.partition("?")[0]


def write_at(file: int, data: bytes | bytearray | memoryview, at: int) -> None:
    """All of `data` into an open file from byte `at` on; OSError where the disk fails."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, at)
        view, at = view[written:], at + written
