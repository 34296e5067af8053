"""What callers of the recorder give, refused at once where a bundle cannot hold it.

A capture may take long: nothing of this may be found when the bundle is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import index
from typing import SupportsIndex, cast

import torch

from foundryc.write import Setting
from foundryrt.bundle.layout import printable
from foundryrt.errors import UsageError
from foundryrt.printable import quoted

_INTEGERS = range(-(1 << 63), 1 << 64)
"""Those that MessagePack has."""


def name(what: str, value: object) -> str:
    """`value`, a name; UsageError unless it is printable text."""
    if not isinstance(value, str):
        raise UsageError(f"{what} {value!r}: is a {type(value).__name__}; give a text")
    # A surrogate is not printable either.
    if not printable(value):
        raise UsageError(f"{what} {quoted(value)}: give a text of printable letters")
    return value


def key(graph: str, values: Mapping[str, object]) -> dict[str, int | str]:
    """A graph's key, with numbers as Python's own; UsageError for another value."""
    return {
        name(f"graph {graph}: the key", part): _key_value(f"graph {graph}: {part}", value)
        for part, value in values.items()
    }


def _key_value(what: str, value: object) -> int | str:
    if isinstance(value, str):
        return name(what, value)
    try:
        if isinstance(value, (bool, torch.Tensor)):
            raise TypeError
        return _integer(what, index(cast(SupportsIndex, value)))
    except TypeError:
        raise UsageError(
            f"{what}={value!r}: is a {type(value).__name__}; a key has integers and texts"
        ) from None


def settings(values: Mapping[str, object]) -> dict[str, Setting]:
    """A workload's settings as a manifest has them; UsageError for another value."""
    return {name("the setting", part): _setting(part, value) for part, value in values.items()}


def _setting(part: str, value: object) -> Setting:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UsageError(f"setting {part}: {value!r} is not UTF-8") from None
        return str(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return _integer(f"setting {part}", int(value))
    if isinstance(value, float):
        return float(value)  # of numpy's, too
    if value is not None:
        raise UsageError(f"setting {part}: {type(value).__name__} is no number, text or None")
    return None


def _integer(what: str, value: int) -> int:
    if value not in _INTEGERS:
        raise UsageError(f"{what}={value}: use {_INTEGERS[0]} to {_INTEGERS[-1]}")
    return value


def tensor(what: str, value: object) -> torch.Tensor:
    """`value`; UsageError unless it is a dense tensor that has memory."""
    if not isinstance(value, torch.Tensor):
        raise UsageError(f"{what}: is a {type(value).__name__}; give a tensor")
    if isinstance(value, (torch.nn.UninitializedParameter, torch.nn.UninitializedBuffer)):
        raise UsageError(f"{what}: has no shape yet; run its module once before")
    if value.is_nested or value.layout != torch.strided or value.is_meta:
        form = (
            "on the meta device" if value.is_meta else "nested" if value.is_nested else value.layout
        )
        raise UsageError(f"{what}: is {form}; give a dense tensor that has memory")
    return value
