"""Zak-OTFS frames, channel and receiver (equations: docs/otfs.md)."""
