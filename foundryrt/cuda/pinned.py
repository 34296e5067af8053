"""Pinned host memory, between which and the device copies run beside other work."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from mmap import MADV_HUGEPAGE, MAP_ANONYMOUS, MAP_PRIVATE, PAGESIZE, mmap

from foundryrt.cuda.device import Device
from foundryrt.errors import FoundryError
from foundryrt.undo import Undo

HUGE_PAGE = 2 << 20


def pin(device: Device, size: int, undo: Undo) -> memoryview:
    """`size` zero bytes, at least one, at a page's start; `undo` unpins them.

    They exist as long as a view of them does. FoundryError where there is no memory for them.
    """
    memory = block(size)
    device.cuda.hold(
        undo, "cuMemHostRegister_v2", (memory, len(memory), 0), "cuMemHostUnregister", (memory,)
    )
    return memoryview(memory).cast("B")[:size]


def block(size: int) -> ctypes.Array[ctypes.c_uint8]:
    """Whole pages of zero bytes that hold `size`, not pinned yet; FoundryError without memory."""
    # On huge pages pinning takes 0.03 ms a MB; cuMemHostAlloc 0.4, and the driver's lock with it.
    alignment = HUGE_PAGE if size >= HUGE_PAGE else PAGESIZE
    length = -(-size // PAGESIZE) * PAGESIZE
    try:
        memory = mmap(-1, length + alignment - PAGESIZE, MAP_PRIVATE | MAP_ANONYMOUS)
    except OSError as error:
        raise FoundryError(f"no memory for pinned buffers: {error}") from error
    whole = (ctypes.c_uint8 * len(memory)).from_buffer(memory)
    found = (ctypes.c_uint8 * length).from_buffer(memory, -ctypes.addressof(whole) % alignment)
    if alignment == HUGE_PAGE:
        with suppress(OSError):  # a kernel without them
            memory.madvise(MADV_HUGEPAGE)
        # By C: the system zeroes 2 MB at a first touch, and other threads want the GIL meanwhile.
        first = ctypes.addressof(found)
        for start in range(0, length, HUGE_PAGE):
            ctypes.memset(first + start, 0, 1)
    return found
