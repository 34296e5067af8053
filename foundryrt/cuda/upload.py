"""Bytes to the device through staging buffers: some are filled while others are copied."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from foundryrt.addresses import address_of
from foundryrt.cuda.device import Device
from foundryrt.cuda.driver import EVENT_WITHOUT_TIME
from foundryrt.cuda.pinned import HUGE_PAGE, pin
from foundryrt.native import Buffer, FileRange, stream
from foundryrt.parallel import WORKERS
from foundryrt.undo import Undo

CHUNK = HUGE_PAGE
_SPARE = 2  # buffers being copied while every thread fills one
_EACH = 2  # buffers of a native thread


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
            self._grow(_EACH * WORKERS - len(self._free))

    def _grow(self, slots: int) -> None:
        if slots <= 0:
            return
        cuda = self._device.cuda
        memory = pin(self._device, slots * CHUNK, self._undo)
        for start in range(0, len(memory), CHUNK):
            event = cuda.make(self._undo, "cuEventCreate", EVENT_WITHOUT_TIME)
            buffer = memory[start : start + CHUNK]
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
            self._grow(_EACH * WORKERS - len(self._free))
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
        copies: Iterable[tuple[int, int, int]],
    ) -> None:
        """Let `fill` write `size` bytes (at most CHUNK) into a buffer, then queue its copies.

        Each copy is (device address, first byte in the buffer, bytes).
        """
        self._device.enter()
        cuda = self._device.cuda
        slot = self._take()
        try:
            if slot.busy:
                cuda("cuEventSynchronize", slot.event)
                slot.busy = False
            fill(slot.buffer[:size])
            for address, start, length in copies:
                slot.busy = True
                cuda("cuMemcpyHtoDAsync_v2", address, slot.address + start, length, self._stream)
            cuda("cuEventRecord", slot.event, self._stream)
        finally:
            with self._lock:
                self._free.append(slot)

    def copy(self, address: int, data: memoryview) -> None:
        """Queue `data` (bytes) for the device address; it may change once this returns."""
        for start in range(0, len(data), CHUNK):
            part = data[start : start + CHUNK]

            def fill(buffer: memoryview, part: memoryview = part) -> None:
                buffer[:] = part

            self.through(len(part), fill, [(address + start, 0, len(part))])

    def clear(self, address: int, size: int) -> None:
        """Queue zeros."""
        self._device.cuda("cuMemsetD8Async", address, 0, size, self._stream)

    def finish(self) -> None:
        """Wait until everything queued has arrived."""
        self._device.enter()
        self._device.cuda("cuStreamSynchronize", self._stream)
