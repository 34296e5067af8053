"""Module variables (`__device__`, `__constant__`) that no longer hold the binary's image."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_size_t, c_uint64, c_void_p
from functools import cache

from foundryc.cuda import elf
from foundryc.cuda.extract import CapturedFunction
from foundryrt.errors import FoundryError

_NOT_FOUND = 500


@cache
def _driver() -> ctypes.CDLL:
    library = ctypes.CDLL("libcuda.so.1")
    library.cuModuleGetGlobal_v2.argtypes = (c_void_p, c_void_p, c_void_p, ctypes.c_char_p)
    library.cuMemcpyDtoH_v2.argtypes = (c_void_p, c_uint64, c_size_t)
    return library


def changed(module: int, cubin: bytes) -> list[str]:
    """Names of the CUmodule's variables that the host or a kernel has written since loading.

    A kernel that relies on such a value would find the initial one in another process.
    """
    cuda = _driver()
    names = []
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
            names.append(symbol.name)
    return names


def refuse_changed(function: CapturedFunction, cubin: bytes) -> None:
    """FoundryError where the module of `function` relies on values that only this process has."""
    names = changed(function.module, cubin)
    if names:
        raise FoundryError(
            f"kernel {function.name[:200]}: its module's variables {', '.join(names[:4])} were set"
            " by the host, which a bundle does not restore; use another operator here"
        )
