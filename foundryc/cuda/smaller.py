"""Kernel binaries cut down to what a bundle uses, each proven by loading it."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_int, c_size_t, c_void_p
from functools import cache

from foundryc.cuda.prune import prune

# Threads, static shared, constant and local bytes, registers, PTX and binary version.
_ATTRIBUTES = range(7)
_Facts = tuple[tuple[int, ...], tuple[tuple[int, int], ...]]


@cache
def _driver() -> ctypes.CDLL:
    library = ctypes.CDLL("libcuda.so.1")
    library.cuLibraryLoadData.argtypes = (
        c_void_p, ctypes.c_char_p, c_void_p, c_void_p, c_int, c_void_p, c_void_p, c_int,
    )  # fmt: skip
    library.cuLibraryUnload.argtypes = (c_void_p,)
    library.cuLibraryGetKernel.argtypes = (c_void_p, c_void_p, ctypes.c_char_p)
    library.cuKernelGetFunction.argtypes = (c_void_p, c_void_p)
    library.cuKernelGetParamInfo.argtypes = (c_void_p, c_size_t, c_void_p, c_void_p)
    library.cuFuncGetAttribute.argtypes = (c_void_p, c_int, c_void_p)
    return library


def smaller(cubin: bytes, names: set[str]) -> bytes:
    """The cubin with the kernels `names` alone; as it is where the driver tells a difference."""
    cut = prune(cubin, names)
    if cut is cubin:
        return cubin
    facts = _facts(cubin, names)
    return cut if facts is not None and facts == _facts(cut, names) else cubin


def _facts(cubin: bytes, names: set[str]) -> list[_Facts] | None:
    """What the driver says about each kernel; None where it refuses the binary."""
    cuda = _driver()
    library = c_void_p()
    if cuda.cuLibraryLoadData(byref(library), cubin, None, None, 0, None, None, 0):
        return None
    try:
        return [_kernel_facts(library, name) for name in sorted(names)]
    except LookupError:
        return None
    finally:
        cuda.cuLibraryUnload(library)


def _kernel_facts(library: c_void_p, name: str) -> _Facts:
    cuda = _driver()
    kernel, function = c_void_p(), c_void_p()
    if cuda.cuLibraryGetKernel(byref(kernel), library, name.encode()):
        raise LookupError(name)
    if cuda.cuKernelGetFunction(byref(function), kernel):
        raise LookupError(name)
    values = []
    for attribute in _ATTRIBUTES:
        value = c_int()
        if cuda.cuFuncGetAttribute(byref(value), attribute, function):
            raise LookupError(name)
        values.append(value.value)
    arguments: list[tuple[int, int]] = []
    offset, size = c_size_t(), c_size_t()
    while not cuda.cuKernelGetParamInfo(kernel, len(arguments), byref(offset), byref(size)):
        arguments.append((offset.value, size.value))
    return tuple(values), tuple(arguments)
