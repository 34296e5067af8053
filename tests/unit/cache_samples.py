"""Cheap bundles that are sealed under a key, and a capture that costs nothing."""

from __future__ import annotations

from pathlib import Path

from foundryc.cache.entry import seal
from foundryc.cache.key import Parts, key_of
from tests.attacks.samples import parts as sample


def parts_of(number: int) -> Parts:
    """Parts of a key for the sample bundle, told apart by one setting."""
    return {"target": "cuda", "workload": "sample", "setting.number": str(number)}


def sealed(path: Path, number: int = 0) -> str:
    """Write a sealed bundle; its key."""
    sample().write(path)
    return seal(path, parts_of(number))


KEY = key_of(parts_of(0))
