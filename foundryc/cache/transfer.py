"""Reading from another machine: in ranges, so that a broken read goes on where it ended."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from foundryc.cache.errors import Poisoned, Unreachable
from foundryrt.bundle.layout import HEADER_BYTES, unpack_header
from foundryrt.errors import FoundryError

T = TypeVar("T")
Read = Callable[[int, int], bytes]
"""Bytes [start, end) of the entry, or less where it ends earlier; never more than asked for."""


@dataclass(frozen=True)
class Limits:
    """How long a place is given. A range of `chunk` bytes must come within `seconds`."""

    attempts: int = int(os.environ.get("FOUNDRY_CACHE_ATTEMPTS", "5"))
    backoff: float = float(os.environ.get("FOUNDRY_CACHE_BACKOFF", "0.5"))
    seconds: float = float(os.environ.get("FOUNDRY_CACHE_TIMEOUT", "60"))
    chunk: int = 8 << 20


LIMITS = Limits()


def attempt(what: str, call: Callable[[], T], failures: tuple[type[BaseException], ...]) -> T:
    """`call`, again after growing pauses; Unreachable after the last attempt."""
    for count in range(LIMITS.attempts):
        try:
            return call()
        except FileNotFoundError:
            raise  # No failure: the entry is not there.
        except failures as error:
            if count + 1 == LIMITS.attempts:
                # The kind alone: a library's text may hold headers or signed addresses.
                raise Unreachable(
                    f"{what}: {type(error).__name__} in {LIMITS.attempts} attempts"
                ) from None
            # Jitter, so that waiting processes do not all come back at once.
            time.sleep(LIMITS.backoff * 2**count * random.uniform(0.5, 1))
    raise Unreachable(f"{what}: no attempt allowed")


def download(what: str, read: Read, path: Path, failures: tuple[type[BaseException], ...]) -> None:
    """The entry into the new file `path`, as long as its own header says and no longer.

    FileNotFoundError where `read` finds no entry, Poisoned where the place gives another length,
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
    try:
        with open(path, "xb") as file:
            # Before anything is fetched: a lying header must not fill the disk.
            if length > shutil.disk_usage(path.parent).free:
                raise FoundryError(f"{path}: no room for {length} bytes")
            file.write(head)
            for start in range(HEADER_BYTES, length, LIMITS.chunk):
                file.write(part(start, min(start + LIMITS.chunk, length)))
    except OSError as error:
        raise FoundryError(f"{path}: cannot be written: {error.strerror}") from error
