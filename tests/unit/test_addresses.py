"""The address of a buffer, and that asking for it keeps nothing."""

from __future__ import annotations

import ctypes
import mmap
import signal

import numpy as np
import pytest

from foundryrt.addresses import address_of


def test_the_first_byte_of_any_contiguous_buffer():
    memory = mmap.mmap(-1, 4096)
    there = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert address_of(memory) == there
    assert address_of(memoryview(memory)[16:].toreadonly()) == there + 16
    with pytest.raises((BufferError, ValueError)):
        address_of(np.arange(10)[::2])


def test_an_interrupt_leaves_no_view_of_the_buffer():
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    memory = mmap.mmap(-1, 4096)
    before = signal.signal(signal.SIGALRM, interrupt)
    interrupted = 0
    try:
        for _ in range(3000):
            try:
                signal.setitimer(signal.ITIMER_REAL, 5e-5)
                while True:
                    address_of(memory)
            except KeyboardInterrupt:
                interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted == 3000
    memory.close()  # BufferError as long as there is a view
