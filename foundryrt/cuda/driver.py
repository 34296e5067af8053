"""The CUDA driver's calls that happen once; what comes per node is native.

By ctypes: importing cuda-bindings would add 37 ms to every start. This, the native core
(native/driver.cpp) and nothing else here opens the driver. Both honour FOUNDRY_LIBCUDA, name a
failed call, its error and the remedy alike (errors.py), and say the same where there is no driver.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import c_char_p, c_int, c_size_t, c_uint, c_uint8, c_uint64, c_void_p
from functools import cache, partial
from typing import Any, NoReturn

from foundryrt.cuda_errors import explain
from foundryrt.errors import FoundryError
from foundryrt.undo import Held, Undo

_POINTER = c_void_p
# The symbols are the versioned ones that cuda.h of CUDA 13.0 names.
_CALLS: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (_POINTER,),
    "cuDeviceGetCount": (_POINTER,),
    "cuDeviceGet": (_POINTER, c_int),
    "cuDeviceGetAttribute": (_POINTER, c_int, c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetUuid_v2": (_POINTER, c_int),
    "cuDeviceCanAccessPeer": (_POINTER, c_int, c_int),
    "cuDevicePrimaryCtxRetain": (_POINTER, c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxSetCurrent": (c_void_p,),
    "cuMemGetInfo_v2": (_POINTER, _POINTER),
    "cuMemGetAllocationGranularity": (_POINTER, _POINTER, c_uint),
    "cuMemAddressReserve": (_POINTER, c_size_t, c_size_t, c_uint64, c_uint64),
    "cuMemAddressFree": (c_uint64, c_size_t),
    "cuMemCreate": (_POINTER, c_size_t, _POINTER, c_uint64),
    "cuMemRelease": (c_uint64,),
    "cuMemRetainAllocationHandle": (_POINTER, c_uint64),
    "cuMemMap": (c_uint64, c_size_t, c_size_t, c_uint64, c_uint64),
    "cuMemUnmap": (c_uint64, c_size_t),
    "cuMemSetAccess": (c_uint64, c_size_t, _POINTER, c_size_t),
    "cuMemExportToShareableHandle": (_POINTER, c_uint64, c_int, c_uint64),
    "cuMemImportFromShareableHandle": (_POINTER, c_void_p, c_int),
    "cuMemGetAllocationPropertiesFromHandle": (_POINTER, c_uint64),
    "cuMemAlloc_v2": (_POINTER, c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemHostRegister_v2": (c_void_p, c_size_t, c_uint),
    "cuMemHostUnregister": (c_void_p,),
    "cuMemcpyHtoD_v2": (c_uint64, c_void_p, c_size_t),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoH_v2": (c_void_p, c_uint64, c_size_t),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuMemcpy2DAsync_v2": (_POINTER, c_void_p),
    "cuMemsetD8Async": (c_uint64, c_uint8, c_size_t, c_void_p),
    "cuStreamCreate": (_POINTER, c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamSynchronize": (c_void_p,),
    "cuEventCreate": (_POINTER, c_uint),
    "cuEventDestroy_v2": (c_void_p,),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventSynchronize": (c_void_p,),
    "cuEventQuery": (c_void_p,),
    "cuEventElapsedTime_v2": (_POINTER, c_void_p, c_void_p),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuLibraryLoadData": (
        _POINTER,
        c_char_p,
        _POINTER,
        _POINTER,
        c_uint,
        _POINTER,
        _POINTER,
        c_uint,
    ),
    "cuLibraryUnload": (c_void_p,),
    "cuLibraryGetKernel": (_POINTER, c_void_p, c_char_p),
    "cuKernelGetFunction": (_POINTER, c_void_p),
    "cuLaunchKernel": (c_void_p, *(c_uint,) * 7, c_void_p, _POINTER, _POINTER),
}

_FREED_BY: dict[str, tuple[str, Any]] = {
    "cuMemCreate": ("cuMemRelease", c_uint64),
    "cuMemRetainAllocationHandle": ("cuMemRelease", c_uint64),
    "cuMemImportFromShareableHandle": ("cuMemRelease", c_uint64),
    "cuMemAlloc_v2": ("cuMemFree_v2", c_uint64),
    "cuStreamCreate": ("cuStreamDestroy_v2", c_void_p),
    "cuEventCreate": ("cuEventDestroy_v2", c_void_p),
    "cuLibraryLoadData": ("cuLibraryUnload", c_void_p),
}
"""Calls that make something: the call that frees it, and the type of its handle."""

_AT_ONCE = ("cuMemcpyHtoDAsync_v2", "cuEventQuery")

CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76
NON_BLOCKING = 1
EVENT_WITH_TIME, EVENT_WITHOUT_TIME = 0, 2
_NOT_READY = 600


class Driver:
    """libcuda.so.1, or the library that FOUNDRY_LIBCUDA names."""

    def __init__(self) -> None:
        path = os.environ.get("FOUNDRY_LIBCUDA") or "libcuda.so.1"
        try:
            self._library = ctypes.CDLL(path)
        except OSError as error:
            raise FoundryError(
                f"no CUDA driver: {error}; install NVIDIA's driver, or use the host target"
            ) from error
        self._calls: dict[str, Any] = {}
        for name, arguments in _CALLS.items():
            try:
                call = getattr(self._library, name)
            except AttributeError:
                raise FoundryError(
                    f"{path} has no {name}; a driver of CUDA 13.0 or later is needed"
                ) from None
            call.argtypes = arguments
            self._calls[name] = call
        held = ctypes.PyDLL(path)
        self._at_once: dict[str, Any] = {}
        for name in _AT_ONCE:
            self._at_once[name] = getattr(held, name)
            self._at_once[name].argtypes = _CALLS[name]

    def __call__(self, name: str, *arguments: Any, about: str = "") -> None:
        """Make a driver call; FoundryError names the call, its error and what to do about it."""
        code = self._calls[name](*arguments)
        if code != 0:
            self._fail(name, code, about)

    def at_once(self, name: str, *arguments: Any) -> None:
        """Make a call that only queues work, of pinned memory, and keep the interpreter's lock.

        A thread that computes may keep it for longer than many such calls take.
        """
        code = self._at_once[name](*arguments)
        if code != 0:
            self._fail(name, code)

    def make(self, undo: Undo, name: str, *arguments: Any, about: str = "") -> int:
        """Make a call whose first argument receives a new handle, and return that.

        `undo` frees what was made.
        """
        free, kind = _FREED_BY[name]
        handle = kind()
        self.hold(undo, name, (ctypes.byref(handle), *arguments), free, (handle,), about)
        return int(handle.value or 0)

    def hold(
        self,
        undo: Undo,
        name: str,
        arguments: tuple[Any, ...],
        free: str,
        free_arguments: tuple[Any, ...],
        about: str = "",
    ) -> None:
        """Make a call whose effect another one takes back; `undo` makes that."""
        held = Held()
        undo.push(partial(self._release, held, free, free_arguments))
        self.take(held, name, *arguments, about=about)

    def take(self, held: Held, name: str, *arguments: Any, about: str = "") -> None:
        """Make a call that takes what `held` stands for."""
        code = held.take(self._calls[name], *arguments)
        if code != 0:
            self._fail(name, code, about)

    def _release(self, held: Held, name: str, arguments: tuple[Any, ...]) -> None:
        code = held.release(self._calls[name], *arguments)
        if code != 0:
            self._fail(name, code)

    def query(self, name: str, *arguments: Any) -> bool:
        """Make a call that asks whether queued work is done, and keep the interpreter's lock."""
        code = self._at_once[name](*arguments)
        if code not in (0, _NOT_READY):
            self._fail(name, code)
        return bool(code == 0)

    def _fail(self, call: str, code: int, about: str = "") -> NoReturn:
        words = []
        for ask in ("cuGetErrorName", "cuGetErrorString"):
            text = c_char_p()
            getattr(self._library, ask)(code, ctypes.byref(text))
            words.append((text.value or b"unknown error").decode())
        where = f" ({about})" if about else ""
        message = f"{call.removesuffix('_v2')}{where}: {words[0]} ({code}), {words[1]}"
        raise FoundryError(explain(code, message))

    def version(self) -> int:
        """The newest CUDA that the driver knows, as 1000 * major + 10 * minor."""
        return self.ask("cuDriverGetVersion")

    def ask(self, name: str, *arguments: Any, kind: Any = c_int) -> int:
        """Make a call whose first argument receives a number or a handle, and return that."""
        out = kind()
        self(name, ctypes.byref(out), *arguments)
        return int(out.value or 0)


@cache
def driver() -> Driver:
    """The process's driver, opened and initialised on first use."""
    opened = Driver()
    opened("cuInit", 0)
    return opened
