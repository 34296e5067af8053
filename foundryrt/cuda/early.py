"""Begins the driver's start, some 200 ms, while the rest of the program is still importing."""

from __future__ import annotations

import ctypes
import os
import threading

from foundryrt.timeline import mark

QUEUES = "4"
"""Of a context that `begin` makes, to which its streams are spread."""
# foundryrt.native is not imported: its own imports would delay the driver.
_NATIVE = os.path.join(os.path.dirname(__file__), os.pardir, "native", "libfoundryrt.so")


def _open(ordinal: int) -> None:
    try:
        # One native call: between several the imports would keep the interpreter's lock.
        failed = ctypes.CDLL(_NATIVE).foundry_begin(ordinal)
    except OSError:
        return  # opening a session says what is wrong
    if not failed:
        mark("driver started")


def begin(ordinal: int = 0) -> None:
    """Make the context of device `ordinal` in the background; it stays until the process ends.

    It has QUEUES queues of work unless CUDA_DEVICE_MAX_CONNECTIONS says how many: a bare process
    ends a quarter sooner than with the driver's own 8 (docs/measurements/start.md). Branches of
    graphs and copies run side by side all the same; of more streams than queues, some may wait for
    others.

    Imports nothing but ctypes: call it before anything else is imported. It asks numpy's BLAS for
    one thread unless OPENBLAS_NUM_THREADS is set: nothing here multiplies on the CPU, and a pool of
    16 took 0.2 s of the start (H200 machine, 16 cores).
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", QUEUES)
    try:
        threading.Thread(target=_open, args=(ordinal,), daemon=True).start()
    except RuntimeError:
        return  # no thread is to be had: the command says so
