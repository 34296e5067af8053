"""What a bundle's first bytes tell before anything is imported."""

from __future__ import annotations

import os

_ENTRY = 128  # bytes of a section's entry in the table, of which the first two are its kind
_KERNEL = (4).to_bytes(2, "little")
_MAX_SECTIONS = 1 << 16


def on_device(path: str) -> bool:
    """Whether the bundle at `path` holds kernel binaries, as those of the cuda target do.

    Only an early start of the driver depends on it, so the three fields of docs/format.md are read
    unchecked: importing the code that checks them would delay the driver.
    """
    if not os.path.isfile(path):
        return False  # a pipe would be waited for
    try:
        with open(path, "rb") as file:
            header = file.read(16)
            sections = int.from_bytes(header[4:8], "little")
            file.seek(int.from_bytes(header[8:16], "little"))
            table = file.read(_ENTRY * min(sections, _MAX_SECTIONS))
    except (OSError, ValueError):
        return False  # opening the bundle says why
    kinds = {table[start : start + 2] for start in range(0, len(table), _ENTRY)}
    return header.startswith(b"FDY") and _KERNEL in kinds
