"""Bytes to the device through two pinned buffers: one is filled while the other is copied."""

from __future__ import annotations

import ctypes
from contextlib import ExitStack
from ctypes import c_void_p

import numpy as np
import numpy.typing as npt

from foundryrt.cuda.driver import EVENT_WITHOUT_TIME, Driver

CHUNK = 8 << 20


class Uploader:
    """Copies on `stream`; the pinned memory and events are pushed on `undo`."""

    def __init__(self, cuda: Driver, stream: int, undo: ExitStack) -> None:
        self._cuda = cuda
        self._stream = stream
        self._buffers: list[npt.NDArray[np.uint8]] = []
        self._events: list[int] = []
        self._busy = [False, False]
        self._next = 0
        for _ in range(2):
            address = cuda.ask("cuMemHostAlloc", CHUNK, 0, kind=c_void_p)
            undo.callback(cuda, "cuMemFreeHost", address)
            self._buffers.append(
                np.ctypeslib.as_array((ctypes.c_uint8 * CHUNK).from_address(address))
            )
            event = cuda.ask("cuEventCreate", EVENT_WITHOUT_TIME, kind=c_void_p)
            undo.callback(cuda, "cuEventDestroy_v2", event)
            self._events.append(event)

    def copy(self, address: int, data: memoryview | npt.NDArray[np.uint8]) -> None:
        """Queue `data` (bytes) for the device address; `data` may change once this returns."""
        source = np.frombuffer(data, np.uint8)
        for start in range(0, source.size, CHUNK):
            piece = source[start : start + CHUNK]
            slot = self._next
            if self._busy[slot]:
                self._cuda("cuEventSynchronize", self._events[slot])
            self._buffers[slot][: piece.size] = piece
            self._cuda(
                "cuMemcpyHtoDAsync_v2", address + start, self._buffers[slot].ctypes.data,
                piece.size, self._stream,
            )  # fmt: skip
            self._cuda("cuEventRecord", self._events[slot], self._stream)
            self._busy[slot] = True
            self._next = 1 - slot

    def finish(self) -> None:
        """Wait until everything queued has arrived."""
        self._cuda("cuStreamSynchronize", self._stream)
