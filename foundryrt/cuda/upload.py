"""Bytes to the device through pinned buffers: one is filled while another is copied."""

from __future__ import annotations

import ctypes
import threading
from contextlib import ExitStack
from ctypes import c_void_p
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foundryrt.cuda.device import Device
from foundryrt.cuda.driver import EVENT_WITHOUT_TIME

CHUNK = 4 << 20
_SLOTS = 2


@dataclass
class _Slot:
    buffer: npt.NDArray[np.uint8]
    event: int
    busy: bool = False


class Uploader:
    """Copies on `stream`, from any thread; buffers are made when a thread first needs them.

    What was made is freed by `undo`, to which it must belong alone.
    """

    def __init__(self, device: Device, stream: int, undo: ExitStack) -> None:
        self._device = device
        self._stream = stream
        self._undo = undo
        self._lock = threading.Lock()
        self._free: list[_Slot] = []

    def _take(self) -> _Slot:
        with self._lock:
            if len(self._free) >= _SLOTS:
                return self._free.pop(0)
            cuda = self._device.cuda
            address = cuda.ask("cuMemHostAlloc", CHUNK, 0, kind=c_void_p)
            self._undo.callback(cuda, "cuMemFreeHost", address)
            event = cuda.ask("cuEventCreate", EVENT_WITHOUT_TIME, kind=c_void_p)
            self._undo.callback(cuda, "cuEventDestroy_v2", event)
            buffer = (ctypes.c_uint8 * CHUNK).from_address(address)
            return _Slot(np.ctypeslib.as_array(buffer), event)

    def copy(self, address: int, data: memoryview | npt.NDArray[np.uint8]) -> None:
        """Queue `data` (bytes) for the device address; `data` may change once this returns."""
        source = np.frombuffer(data, np.uint8)
        self._device.enter()
        cuda = self._device.cuda
        for start in range(0, source.size, CHUNK):
            piece = source[start : start + CHUNK]
            slot = self._take()
            try:
                if slot.busy:
                    cuda("cuEventSynchronize", slot.event)
                slot.buffer[: piece.size] = piece
                cuda(
                    "cuMemcpyHtoDAsync_v2", address + start, slot.buffer.ctypes.data,
                    piece.size, self._stream,
                )  # fmt: skip
                cuda("cuEventRecord", slot.event, self._stream)
                slot.busy = True
            finally:
                with self._lock:
                    self._free.append(slot)

    def finish(self) -> None:
        """Wait until everything queued has arrived."""
        self._device.cuda("cuStreamSynchronize", self._stream)
