"""What is exchanged: rows of bfloat16."""

from __future__ import annotations

WIDTH = 4096
COUNT = 20
"""Exchanges in a graph."""
LAUNCHES, TRIES = 10, 9
"""Graphs launched one behind the other, and times that this is timed."""
_SIZES = (8 << 10, 64 << 10, 256 << 10, 1 << 20, 16 << 20, 64 << 20)


def sizes(largest: int) -> list[int]:
    """Bytes of exchanges up to `largest`."""
    return [size for size in _SIZES if size <= largest]
