"""The forms that a rule of the manifest takes, and the error of each."""

from __future__ import annotations

from collections.abc import Iterable

from foundryrt.bundle.errors import DuplicateName, InvalidReference, InvalidValue
from foundryrt.printable import quoted


def require(condition: bool, problem: str) -> None:
    """InvalidValue unless `condition` holds."""
    if not condition:
        raise InvalidValue(f"manifest: {problem}")


def refer(what: str, index: int, things: tuple[object, ...]) -> None:
    """InvalidReference unless `index` is one of `things`."""
    if not 0 <= index < len(things):
        raise InvalidReference(f"manifest: {what} refers to entry {index} of {len(things)}")


def unique(what: str, names: Iterable[object]) -> None:
    """DuplicateName for a name that comes twice."""
    seen = set()
    for name in names:
        if name in seen:
            raise DuplicateName(f"manifest: two {what}s are named {quoted(name)}")
        seen.add(name)
