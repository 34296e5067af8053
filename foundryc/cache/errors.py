"""What can go wrong between a key and its bundle."""

from __future__ import annotations

from foundryrt.errors import FoundryError, Unreachable

__all__ = ["NotWritable", "Poisoned", "Unreachable"]


class Poisoned(FoundryError):
    """A cache entry is not the bundle that its key stands for: refused, reported, evicted."""


class NotWritable(FoundryError):
    """A store that can only be read was asked to store or evict."""
