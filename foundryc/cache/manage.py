"""Keeping a store in order: checking all entries, and evicting the least recently used."""

from __future__ import annotations

import tempfile
from pathlib import Path

from foundryc.cache.entry import read_record
from foundryc.cache.errors import Poisoned
from foundryc.cache.key import key_of
from foundryc.cache.stores.base import Cleanable, Entry, Store
from foundryrt.bundle.reader import Bundle
from foundryrt.errors import Unreadable, UsageError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def verify(store: Store, unread: dict[str, str] | None = None) -> dict[str, str]:
    """Check every entry; what is refused is evicted. By key, why (empty: good).

    Entries that cannot be read stay, and go into `unread` with why; without it, Unreadable.
    """
    found = {}
    for entry in store.entries():
        try:
            with tempfile.TemporaryDirectory() as folder:
                store.fetch(entry.key, Path(folder) / "entry")
            found[entry.key] = ""
        except Unreadable as error:
            if unread is None:
                raise
            unread[entry.key] = str(error)
        except Poisoned as error:
            found[entry.key] = str(error)
            store.evict(entry.key)
    return found


def collect(store: Store, max_size: int) -> list[Entry]:
    """Evict the least recently used entries until `max_size` bytes are left; those evicted.

    An entry that a process is making is left alone; what killed writers left goes too.
    """
    entries = sorted(store.entries(), key=lambda entry: entry.used, reverse=True)
    kept, evicted = 0, []
    for entry in entries:
        if kept + entry.size <= max_size:
            kept += entry.size
            continue
        claim = store.claim(entry.key)
        if claim is None:
            kept += entry.size
            continue
        with claim:
            store.evict(entry.key)
        evicted.append(entry)
    if isinstance(store, Cleanable):
        store.clean()
    return evicted


def key_of_bundle(path: Path) -> str:
    """The key that a bundle was sealed under; UsageError where it has no record."""
    with Bundle.open(path) as bundle:
        return key_of(read_record(bundle).parts)


def parse_size(text: str) -> int:
    """Bytes of `10G`, `500MB` or a number; UsageError."""
    number = text.upper().removesuffix("B").rstrip()
    unit = number[-1:] if number[-1:] in _UNITS else ""
    try:
        size = float(number.removesuffix(unit)) * _UNITS[unit]
    except ValueError:
        raise UsageError(f"size {text!r}: write bytes, or such as 500M or 10G") from None
    if not 0 <= size < 2**63:
        raise UsageError(f"size {text!r}: out of range")
    return int(size)
