"""Binding of the ring: records in shared memory, which every reader takes in the order of puts."""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, byref, c_int, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from foundryrt.addresses import address_of
from foundryrt.errors import FoundryError
from foundryrt.native.core import load_core

_PATH = Path(__file__).parent / "libfoundryrt.so"
CAPACITY = 1 << 20
"""Bytes of records that a reader may be behind."""
MOST_BYTES = CAPACITY // 4
"""Bytes of a record: the next one is put while this one is being read."""
_TIME_OVER = 1
_NOTHING = memoryview(b"")


class _Record(ctypes.Structure):
    """`Record` of native/ring.cpp."""

    _fields_ = (("kind", c_uint32), ("index", c_uint32), ("value", c_uint64), ("bytes", c_uint64))


@dataclass(frozen=True)
class Record:
    """What was put; `data` is valid until the reader's `done`."""

    kind: int
    index: int
    value: int
    data: memoryview


@cache
def _library() -> ctypes.CDLL:
    loaded = load_core(_PATH)
    loaded.foundry_ring_bytes.argtypes = (c_uint64,)
    loaded.foundry_ring_bytes.restype = c_uint64
    loaded.foundry_ring_open.argtypes = (c_int, c_uint32, c_uint64, POINTER(c_void_p))
    loaded.foundry_ring_close.argtypes = (c_void_p,)
    loaded.foundry_ring_close.restype = None
    loaded.foundry_ring_put.argtypes = (
        c_void_p, c_uint32, c_uint32, c_uint64, c_void_p, c_uint64, c_uint32,
    )  # fmt: skip
    loaded.foundry_ring_take.argtypes = (c_void_p, c_uint32, c_uint32, POINTER(POINTER(_Record)))
    loaded.foundry_ring_done.argtypes = (c_void_p, c_uint32)
    loaded.foundry_ring_done.restype = None
    loaded.foundry_ring_drain.argtypes = (c_void_p, c_uint32)
    return loaded


class Ring:
    """One thread at a time puts; readers 0 to `readers` - 1, of any process, take every record.

    Calls that wait give up after so many milliseconds, and let other threads run meanwhile.
    """

    def __init__(self, file: int, readers: int, capacity: int = CAPACITY) -> None:
        """Map the ring that `file` is, and close the file; FoundryError where that fails."""
        self._handle = c_void_p()
        try:
            code = _library().foundry_ring_open(file, readers, capacity, byref(self._handle))
        finally:
            os.close(file)
        if code:
            raise FoundryError(f"shared memory of {capacity} bytes: {os.strerror(code)}")
        self._found = POINTER(_Record)()

    def put(
        self, kind: int, index: int = 0, value: int = 0, data: memoryview = _NOTHING,
        milliseconds: int = 1000,
    ) -> bool:  # fmt: skip
        """Put a record; False where the slowest reader leaves no room for it in that time.

        `data` is contiguous, at most `MOST_BYTES`; kind and index have 32 bits, `value` 64.
        """
        address = address_of(data) if data.nbytes else None
        return self._outcome(
            _library().foundry_ring_put(
                self._handle, kind, index, value, address, data.nbytes, milliseconds
            )
        )

    def take(self, reader: int, milliseconds: int = 1000) -> Record | None:
        """The reader's next record, the same one until `done`; None where none comes in time."""
        taken = _library().foundry_ring_take(self._handle, reader, milliseconds, byref(self._found))
        if not self._outcome(taken):
            return None
        record = self._found.contents
        place = ctypes.addressof(record) + ctypes.sizeof(_Record)
        data = memoryview((ctypes.c_ubyte * record.bytes).from_address(place)).cast("B")
        return Record(record.kind, record.index, record.value, data)

    def done(self, reader: int) -> None:
        """The reader's record may be overwritten."""
        _library().foundry_ring_done(self._handle, reader)

    def drain(self, milliseconds: int = 1000) -> bool:
        """Wait until all readers are done with all records; False where they are not in time."""
        return self._outcome(_library().foundry_ring_drain(self._handle, milliseconds))

    def close(self) -> None:
        """Unmap it here; a second call does nothing. No other thread may be using it."""
        handle, self._handle = self._handle, c_void_p()
        if handle:
            _library().foundry_ring_close(handle)

    @staticmethod
    def _outcome(code: int) -> bool:
        if code not in (0, _TIME_OVER):
            raise ValueError("a record or reader that the ring has no room for")
        return code == 0


def ring_file(capacity: int = CAPACITY) -> int:
    """A file in memory for a new ring; FoundryError where there is no memory for it."""
    file = os.memfd_create("foundry-ring", os.MFD_CLOEXEC)
    try:
        os.ftruncate(file, _library().foundry_ring_bytes(capacity))
    except OSError as error:
        os.close(file)
        raise FoundryError(f"shared memory of {capacity} bytes: {error.strerror}") from None
    return file


__all__ = ["CAPACITY", "MOST_BYTES", "Record", "Ring", "ring_file"]
