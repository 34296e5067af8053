"""Addresses of Python buffers. ctypes itself gives those of writable ones alone."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_int, c_ssize_t, c_void_p, py_object
from functools import partial
from operator import call


class _View(ctypes.Structure):
    """Py_buffer of CPython's stable interface."""

    _fields_ = (
        ("memory", c_void_p), ("owner", c_void_p), ("bytes", c_ssize_t), ("item", c_ssize_t),
        ("readonly", c_int), ("dimensions", c_int), ("format", c_void_p), ("shape", c_void_p),
        ("strides", c_void_p), ("suboffsets", c_void_p), ("internal", c_void_p),
    )  # fmt: skip


_SIMPLE = 0  # contiguous bytes; anything else is a BufferError
_get = ctypes.PYFUNCTYPE(c_int, py_object, POINTER(_View), c_int)(
    ("PyObject_GetBuffer", ctypes.pythonapi)
)
_release = ctypes.PYFUNCTYPE(None, POINTER(_View))(("PyBuffer_Release", ctypes.pythonapi))


def address_of(data: object) -> int:
    """Address of a contiguous buffer's first byte; valid as long as the buffer exists."""
    view = _View()
    # One instruction takes the view and gives it back: an interrupt between would keep it forever.
    [*map(call, (partial(_get, data, byref(view), _SIMPLE), partial(_release, byref(view))))]
    return view.memory or 0
