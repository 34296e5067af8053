"""Binding of the native capture core: CUPTI harvest, arena, graph extraction, pointer audit."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_int, c_int32, c_int64, c_uint8, c_uint32, c_uint64, c_void_p
from functools import cache
from pathlib import Path

from foundryrt.cuda_errors import explain
from foundryrt.errors import FoundryError
from foundryrt.native import TemplateView
from foundryrt.native.core import load_core

PATH = Path(__file__).parent / "libfoundryc.so"
HEAP = PATH.with_name("libfoundryheap.so")
"""An allocator to be preloaded, see native/heap_half.cpp."""


class ModuleView(ctypes.Structure):
    """`foundryc_module` of native/harvest.hpp."""

    _fields_ = (
        ("cubin", c_void_p), ("size", c_uint64), ("call", c_char_p), ("siblings", c_uint32),
        ("unloaded", c_uint32), ("handle_kind", c_uint32), ("spare", c_uint32),
    )  # fmt: skip


class FunctionView(ctypes.Structure):
    """`foundryc_function` of native/api.cpp."""

    _fields_ = (
        ("name", c_char_p), ("handle", c_void_p), ("module", c_void_p), ("shared", c_int32),
        ("carveout", c_int32), ("nonportable", c_int32), ("spare", c_int32),
    )  # fmt: skip


class ForeignPointer(ctypes.Structure):
    """`foundryc_foreign_pointer` of native/foreign.hpp."""

    _fields_ = (
        ("word", c_uint64), ("address", c_uint64), ("start", c_uint64), ("bytes", c_uint64),
        ("memory", c_uint32), ("spare", c_uint32),
    )  # fmt: skip


@cache
def library() -> ctypes.CDLL:
    """The loaded core; FoundryError where it was not built."""
    loaded = load_core(PATH)
    loaded.foundryc_error.restype = c_char_p
    loaded.foundryc_start_harvest.argtypes = (c_char_p,)
    loaded.foundryc_module_count.restype = c_uint64
    loaded.foundryc_module_at.argtypes = (c_uint64, POINTER(ModuleView))
    loaded.foundryc_find_module.argtypes = (c_void_p, POINTER(c_int64))
    loaded.foundryc_pass_calls.argtypes = (c_uint64,)
    loaded.foundryc_open_arena.argtypes = (c_uint64, c_uint64, c_int)
    loaded.foundryc_close_arena.restype = None
    loaded.foundryc_allocate.argtypes = (c_uint32, c_uint64, c_uint64, POINTER(c_uint64))
    loaded.foundryc_place_slabs.argtypes = (c_uint32, *(c_uint64,) * 3, POINTER(c_uint64))
    loaded.foundryc_used.argtypes = (c_uint32,)
    loaded.foundryc_used.restype = c_uint64
    loaded.foundryc_extract.argtypes = (c_void_p, POINTER(c_void_p))
    loaded.foundryc_extracted_free.argtypes = (c_void_p,)
    loaded.foundryc_extracted_free.restype = None
    loaded.foundryc_columns.argtypes = (c_void_p, POINTER(TemplateView))
    loaded.foundryc_columns.restype = None
    loaded.foundryc_function_at.argtypes = (c_void_p, c_uint32, POINTER(FunctionView))
    loaded.foundryc_audit.argtypes = (
        c_void_p, c_uint64, c_uint64, c_uint64, POINTER(ForeignPointer), c_uint64,
        POINTER(c_uint64),
    )  # fmt: skip
    loaded.foundryc_fill_with.argtypes = (c_uint8,)
    loaded.foundryc_fill_with.restype = None
    loaded.foundryc_fill_after_allocations.argtypes = (c_int,)
    loaded.foundryc_fill_after_allocations.restype = None
    return loaded


def check(code: int) -> None:
    """FoundryError with the core's message where `code` is not 0."""
    if code != 0:
        raise FoundryError(explain(code, library().foundryc_error().decode(errors="replace")))


__all__ = ["HEAP", "PATH", "ForeignPointer", "FunctionView", "ModuleView", "check", "library"]
