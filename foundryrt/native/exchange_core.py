"""Binding of the exchange between ranks on the CPU, native/exchange.cpp."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_int, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from foundryrt.errors import FoundryError
from foundryrt.native.core import load_core

_PATH = Path(__file__).parent / "libfoundryhost.so"


class _Exchange(ctypes.Structure):
    """`foundry_exchange` of native/exchange.cpp."""

    _fields_ = (("world", c_int32), ("bits", c_int32), ("stride", c_int64), ("capacity", c_int64))


@dataclass(frozen=True)
class Exchange:
    """Ranks that exchange elements of 32 bits (float32) or 16 (bfloat16).

    `world` slabs lie `stride` bytes apart; `capacity` bytes are what a rank sends at a time.
    """

    world: int
    stride: int
    capacity: int
    bits: int


@lru_cache
def _structure(exchange: Exchange) -> _Exchange:
    e = exchange
    return _Exchange(e.world, e.bits, e.stride, e.capacity)


@cache
def _library() -> ctypes.CDLL:
    library = load_core(_PATH)
    library.foundry_all_gather.argtypes = (
        POINTER(_Exchange), c_void_p, c_int64, c_void_p, c_void_p, c_int, c_void_p,
    )  # fmt: skip
    return library


def all_gather(
    exchange: Exchange, x: int, count: int, words: int, slabs: int, turn: int, out: int
) -> None:
    """Send `count` elements and take those of all ranks; tensors by address.

    `turn` is the first of the buffers that it uses in turn; `out` gets [world, count] elements, in
    order of the ranks. Where a rank does not answer, `words` say so and `out` is zeros.
    FoundryError where `words` name no rank of these.
    """
    code = _library().foundry_all_gather(
        byref(_structure(exchange)), x, count, words, slabs, turn, out
    )
    if code:
        raise FoundryError(f"all_gather: its words name no rank of {exchange.world}")
