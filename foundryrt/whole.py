"""Whole numbers that callers give, as Python's own: C would take others modulo its size."""

from __future__ import annotations

from operator import index
from typing import SupportsIndex, cast

from foundryrt.errors import UsageError


def whole(
    what: str, value: object, most: int, hint: str = "give a whole number", least: int = 0
) -> int:
    """`value`, also one of numpy's, as an int; UsageError unless it is from `least` to `most`."""
    try:
        found = index(cast(SupportsIndex, value))
    except TypeError:
        raise UsageError(f"{what} is a {type(value).__name__}; {hint}") from None
    if not least <= found <= most:
        raise UsageError(f"{what} {found}: use {least} to {most}")
    return found
