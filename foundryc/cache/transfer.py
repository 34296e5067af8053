"""Fetching an entry in ranges, so that a broken read goes on where it ended."""

from __future__ import annotations

import shutil
from pathlib import Path

from foundryc.cache.errors import Poisoned
from foundryrt.atomic import writing
from foundryrt.bundle.layout import HEADER_BYTES, unpack_header
from foundryrt.errors import FoundryError
from foundryrt.remote import attempts
from foundryrt.remote.attempts import Read, attempt


def download(what: str, read: Read, path: Path, failures: tuple[type[BaseException], ...]) -> None:
    """The entry into the new file `path`, as long as its own header says and no longer.

    FileNotFoundError where `read` finds no entry, Poisoned where the store gives another length,
    Unreachable, FoundryError where the disk fails.
    """

    def part(start: int, end: int) -> bytes:
        data = attempt(what, lambda: read(start, end), failures)
        if len(data) != end - start:
            raise Poisoned(f"{what}: {len(data)} bytes where {end - start} were asked for")
        return data

    head = part(0, HEADER_BYTES)
    length = int.from_bytes(head[16:24], "little")
    try:
        unpack_header(head, length)
    except FoundryError as error:
        raise Poisoned(f"{what}: {error}") from error
    with writing(path), open(path, "xb") as file:
        # Before anything is fetched: a lying header must not fill the disk.
        if length > shutil.disk_usage(path.parent).free:
            raise FoundryError(f"{path}: no room for {length} bytes")
        file.write(head)
        for start in range(HEADER_BYTES, length, attempts.LIMITS.chunk):
            file.write(part(start, min(start + attempts.LIMITS.chunk, length)))
