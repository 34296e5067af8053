"""Polling without the interpreter's lock."""

from __future__ import annotations

import ctypes
from ctypes import addressof, c_int64, c_uint32, c_void_p
from functools import cache

from foundryrt.native import library


def idle(event: int, word: c_int64, seen: int, seconds: float) -> None:
    """Return once the CUevent (0: none) is not pending, or `word` not `seen`, or time is up.

    Other threads have the interpreter meanwhile. The event's context is current.
    """
    _library().foundry_idle(event, addressof(word), seen, round(seconds * 1e6))


@cache
def _library() -> ctypes.CDLL:
    loaded = library()
    loaded.foundry_idle.argtypes = (c_void_p, c_void_p, c_int64, c_uint32)
    loaded.foundry_idle.restype = None
    return loaded
