"""Begins the driver's start, some 200 ms, while the rest of the program is still importing."""

from __future__ import annotations

import ctypes
import os
import threading


def _open(ordinal: int) -> None:
    try:
        cuda = ctypes.CDLL(os.environ.get("FOUNDRY_LIBCUDA") or "libcuda.so.1")
        device, context = ctypes.c_int(), ctypes.c_void_p()
        if cuda.cuInit(0) == 0 and cuda.cuDeviceGet(ctypes.byref(device), ordinal) == 0:
            cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
    except (OSError, AttributeError):
        # Whoever opens a session gets the error, with its explanation.
        return


def begin(ordinal: int = 0) -> None:
    """Make the context of device `ordinal` in the background; it stays until the process ends.

    Imports nothing but ctypes: call it before numpy and the like are imported. It asks numpy's
    BLAS for one thread unless OPENBLAS_NUM_THREADS is set: nothing here multiplies on the CPU, and
    a pool of 16 took 0.2 s of the start (H200 machine, 16 cores).
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    threading.Thread(target=_open, args=(ordinal,), daemon=True).start()
