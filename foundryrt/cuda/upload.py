"""Bytes to the device through staging buffers: some are filled while others are copied."""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from ctypes import byref, c_int, c_size_t, c_uint64, c_void_p
from dataclasses import dataclass
from typing import NamedTuple

from foundryrt.addresses import address_of
from foundryrt.cuda.device import Device
from foundryrt.cuda.driver import EVENT_WITHOUT_TIME
from foundryrt.cuda.pinned import pin
from foundryrt.cuda.staging import CHUNK, take
from foundryrt.native import Buffer, FileRange, stream
from foundryrt.parallel import WORKERS
from foundryrt.undo import Undo

_SPARE = 2  # buffers being copied while every thread fills one
_EACH = 2  # buffers of a native thread
FOR_FILES = _EACH * WORKERS
"""Buffers that `Uploader.files` uses."""
_HOST, _DEVICE = 1, 2  # CU_MEMORYTYPE_...


class Piece(NamedTuple):
    """Bytes of a buffer that are copied: rows `pitch` bytes apart, to one behind the other."""

    address: int
    start: int
    """In the buffer."""
    width: int
    rows: int = 1
    pitch: int = 0


class _Copy2D(ctypes.Structure):
    """CUDA_MEMCPY2D."""

    _fields_ = (
        ("source_x", c_size_t), ("source_y", c_size_t), ("source_type", c_int),
        ("source_host", c_void_p), ("source_device", c_uint64), ("source_array", c_void_p),
        ("source_pitch", c_size_t),
        ("target_x", c_size_t), ("target_y", c_size_t), ("target_type", c_int),
        ("target_host", c_void_p), ("target_device", c_uint64), ("target_array", c_void_p),
        ("target_pitch", c_size_t),
        ("width", c_size_t), ("height", c_size_t),
    )  # fmt: skip


@dataclass
class _Slot:
    buffer: memoryview
    address: int
    event: int
    busy: bool = False


class Uploader:
    """Copies on `stream`, from any thread; buffers are made when a thread first needs them.

    `undo` frees them, which must be a part of its own: they are made at any time.
    """

    def __init__(self, device: Device, stream: int, undo: Undo) -> None:
        self._device = device
        self._stream = stream
        self._undo = undo
        self._lock = threading.Lock()
        self._free: deque[_Slot] = deque()
        self._made = 0

    def reserve(self) -> None:
        """Make the buffers that `files` needs: pinning memory takes time."""
        self._device.enter()
        with self._lock:
            self._grow(FOR_FILES - len(self._free))

    def _grow(self, slots: int) -> None:
        if slots <= 0:
            return
        cuda = self._device.cuda
        buffers = take(slots, self._undo)
        if missing := slots - len(buffers):
            memory = pin(self._device, missing * CHUNK, self._undo)
            buffers += [memory[start : start + CHUNK] for start in range(0, len(memory), CHUNK)]
        for buffer in buffers:
            event = cuda.make(self._undo, "cuEventCreate", EVENT_WITHOUT_TIME)
            self._free.append(_Slot(buffer, address_of(buffer), event))
            self._made += 1

    def _take(self) -> _Slot:
        with self._lock:
            if not self._free:
                self._grow(1 if self._made else _SPARE)
            return self._free.popleft()

    def files(self, ranges: Sequence[FileRange]) -> None:
        """Queue ranges of files, of any length, read by native threads.

        FoundryError for a driver call that fails and a file that cannot be read or ends early.
        """
        self._device.enter()
        with self._lock:
            self._grow(FOR_FILES - len(self._free))
            # The native threads wait for a buffer's event, so for copies queued from Python too.
            slots = [self._free.popleft() for _ in range(len(self._free))]
        try:
            threads = min(WORKERS, len(slots) // _EACH)
            buffers = [Buffer(slot.address, CHUNK, slot.event) for slot in slots]
            stream(self._device.context, self._stream, buffers, threads, ranges)
        finally:
            with self._lock:
                for slot in slots:
                    slot.busy = True
                self._free += slots

    def through(
        self,
        size: int,
        fill: Callable[[memoryview], object],
        pieces: Iterable[Piece],
    ) -> None:
        """Let `fill` write `size` bytes (at most CHUNK) into a buffer, then queue its pieces."""
        self._device.enter()
        cuda = self._device.cuda
        slot = self._take()
        try:
            if slot.busy:
                cuda("cuEventSynchronize", slot.event)
                slot.busy = False
            fill(slot.buffer[:size])
            for piece in pieces:
                slot.busy = True
                self._copy(slot.address + piece.start, piece)
            cuda("cuEventRecord", slot.event, self._stream)
        finally:
            with self._lock:
                self._free.append(slot)

    def _copy(self, source: int, piece: Piece) -> None:
        cuda = self._device.cuda
        if piece.rows == 1:
            cuda("cuMemcpyHtoDAsync_v2", piece.address, source, piece.width, self._stream)
            return
        copy = _Copy2D(
            source_type=_HOST, source_host=source, source_pitch=piece.pitch,
            target_type=_DEVICE, target_device=piece.address, target_pitch=piece.width,
            width=piece.width, height=piece.rows,
        )  # fmt: skip
        cuda("cuMemcpy2DAsync_v2", byref(copy), self._stream)

    def copy(self, address: int, data: memoryview) -> None:
        """Queue `data` (bytes) for the device address; it may change once this returns."""
        for start in range(0, len(data), CHUNK):
            part = data[start : start + CHUNK]

            def fill(buffer: memoryview, part: memoryview = part) -> None:
                buffer[:] = part

            self.through(len(part), fill, [Piece(address + start, 0, len(part))])

    def clear(self, address: int, size: int) -> None:
        """Queue zeros."""
        self._device.cuda("cuMemsetD8Async", address, 0, size, self._stream)

    def finish(self) -> None:
        """Wait until everything queued has arrived."""
        self._device.enter()
        self._device.cuda("cuStreamSynchronize", self._stream)
