"""What every store offers. Names are keys and nothing else, so no name leads out of a store."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from foundryrt.errors import UsageError

SUFFIX = ".fdy"
_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """An entry as a store lists it; nothing of it is checked. `used` in seconds since 1970."""

    key: str
    size: int
    used: float


class Store(Protocol):
    """Keeps entries by key. Every method raises Unreachable where the store fails."""

    url: str

    @property
    def writable(self) -> bool:
        """Whether entries can be put and evicted here."""

    def fetch(self, key: str, path: Path) -> bool:
        """Put the verified entry into the new file `path`; False where there is none.

        Poisoned where there is one that is not the bundle of `key`, Unreadable where nobody can
        tell; `path` may then hold rubbish.
        """

    def put(self, key: str, path: Path) -> None:
        """Make the file the entry, at once; only under a claim of `key`. NotWritable."""

    def claim(self, key: str) -> AbstractContextManager[object] | None:
        """The sole right to make this entry, or None while another process has it.

        Left, or lost with the process that has it, it is free again.
        """

    def entries(self) -> list[Entry]:
        """Everything that has an entry's name."""

    def evict(self, key: str) -> None:
        """Remove the entry; nothing where there is none. NotWritable."""


@runtime_checkable
class Cleanable(Protocol):
    """A store where a killed writer leaves something that has no entry's name."""

    def clean(self) -> None:
        """Remove that; nothing of a writer that lives."""


def check_key(key: str) -> str:
    """The key itself; UsageError for anything but 64 hexadecimal digits."""
    if not _KEY.fullmatch(key):
        raise UsageError(f"{key[:80]!r} is no key: 64 digits of 0-9 and a-f")
    return key


def key_in(name: str) -> str | None:
    """The key of an entry's file name; None for any other name."""
    key = name.removesuffix(SUFFIX)
    return key if name.endswith(SUFFIX) and _KEY.fullmatch(key) else None
