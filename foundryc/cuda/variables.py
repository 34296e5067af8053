"""Module variables (`__device__`, `__constant__`) that no longer hold the binary's image."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_size_t, c_uint64, c_void_p
from functools import cache

import numpy as np

from foundryc.cuda import elf
from foundryc.cuda.extract import CapturedFunction
from foundryc.native import StrayView, check, library
from foundryrt.errors import FoundryError

_NOT_FOUND = 500
_LARGEST = 1 << 20


@cache
def _driver() -> ctypes.CDLL:
    library = ctypes.CDLL("libcuda.so.1")
    library.cuModuleGetGlobal_v2.argtypes = (c_void_p, c_void_p, c_void_p, ctypes.c_char_p)
    library.cuMemcpyDtoH_v2.argtypes = (c_void_p, c_uint64, c_size_t)
    return library


def changed(module: int, cubin: bytes) -> dict[str, bytes]:
    """The CUmodule's variables that were written since it was loaded, and their bytes.

    A kernel that relies on such a value would find the initial one in another process.
    """
    cuda = _driver()
    found = {}
    for symbol in elf.symbols(cubin):
        # Unnamed ones are string literals of assertions and printf.
        if symbol.kind != elf.OBJECT or not symbol.size or symbol.name.startswith("__unnamed"):
            continue
        address, size = c_uint64(), c_size_t()
        code = cuda.cuModuleGetGlobal_v2(byref(address), byref(size), module, symbol.name.encode())
        if code == _NOT_FOUND:
            continue
        data = ctypes.create_string_buffer(size.value)
        if code == 0:
            code = cuda.cuMemcpyDtoH_v2(data, address, size)
        if code != 0:
            raise FoundryError(f"variable {symbol.name} cannot be read: CUDA error {code}")
        if data.raw != symbol.initial[: size.value].ljust(size.value, b"\0"):
            found[symbol.name] = data.raw
    return found


def values_to_keep(function: CapturedFunction, cubin: bytes) -> dict[str, bytes]:
    """What the variables of the function's module must hold in another process, by name.

    FoundryError where a value is an address, even of the arena: what it points to is not known.
    """
    found = changed(function.module, cubin)
    for name, data in found.items():
        words = np.frombuffer(data[: len(data) // 8 * 8], np.uint64)
        strays = (StrayView * 1)()
        count = c_uint64()
        words = np.ascontiguousarray(words)
        check(
            library().foundryc_audit(words.ctypes.data, words.size, 0, 0, strays, 1, byref(count))
        )
        if count.value or len(data) > _LARGEST:
            what = f"the address {strays[0].address:#x}" if count.value else f"{len(data)} bytes"
            raise FoundryError(
                f"kernel {function.name[:200]}: the variable {name} of its module holds {what},"
                " which a bundle does not restore; use another operator here"
            )
    return found
