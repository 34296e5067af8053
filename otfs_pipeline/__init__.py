"""Zak-OTFS frames, channel and receiver (equations: docs/otfs.md)."""

from foundryrt import __version__

__all__ = ["__version__"]
