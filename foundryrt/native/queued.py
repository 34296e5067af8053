"""Calls that queue work on streams, made one after the other without the interpreter's lock."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from ctypes import POINTER, c_int, c_uint64
from functools import cache

from foundryrt.native import check, library

NOTHING, TO_DEVICE, ON_DEVICE, TO_HOST, RECORD, WAIT, LAUNCH = range(7)
"""What a `Call` does: no call; copies to, on and from the device; events; a CUgraphExec."""


class Call(ctypes.Structure):
    """`foundry_call` of native/queued.hpp: `size` bytes `source` to `target`, on a CUstream.

    `target` is also the event of RECORD and WAIT, and what LAUNCH launches.
    """

    _fields_ = (
        ("kind", c_uint64), ("stream", c_uint64), ("target", c_uint64), ("source", c_uint64),
        ("size", c_uint64),
    )  # fmt: skip


class Calls:
    """Made in their order by `make`; they may be changed in between."""

    def __init__(self, calls: Iterable[Call]) -> None:
        given = list(calls)
        self._calls = (Call * len(given))(*given)

    def __getitem__(self, index: int) -> Call:
        return self._calls[index]

    def make(self) -> None:
        """Make them. FoundryError for one that fails; those behind it are not made."""
        check(_library().foundry_make_calls(self._calls, len(self._calls)))


@cache
def _library() -> ctypes.CDLL:
    loaded = library()
    loaded.foundry_make_calls.argtypes = (POINTER(Call), c_int)
    return loaded
