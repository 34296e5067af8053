"""The door to CUDA's driver at capture: cuda-bindings, and what an error of the driver means.

The online side has a table of its own through ctypes (foundryrt/cuda/driver.py): importing
cuda-bindings would cost each start tens of milliseconds.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

from foundryrt.cuda_errors import explain
from foundryrt.errors import FoundryError, install


@cache
def bindings() -> Any:
    """`cuda.bindings.driver` on libcuda.so.1, or on the library that FOUNDRY_LIBCUDA names.

    Makes no CUDA call, so that a harvest can begin afterwards. FoundryError where there is no
    driver.
    """
    path = os.environ.get("FOUNDRY_LIBCUDA") or "libcuda.so.1"
    try:
        # cuda-bindings looks for libcuda.so.1: what is loaded under that SONAME is what it takes.
        ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise FoundryError(
            f"no GPU is visible here: there is no NVIDIA driver ({error}); capture on a machine"
            " with one, or use --target host"
        ) from error
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise FoundryError(
            f"capturing on cuda needs cuda-bindings: {install('capture')}"
        ) from error
    return driver


def attempt(name: str, *arguments: Any) -> tuple[int, Any]:
    """Make the driver call `name`: its CUresult, and its value, a tuple of several, or None."""
    try:
        code, *values = getattr(bindings(), name)(*arguments)
    except RuntimeError as error:
        raise FoundryError(
            f"{name} cannot be called: {error}; a driver of CUDA 13.0 or later is needed"
        ) from error
    return int(code), values[0] if len(values) == 1 else tuple(values) or None


def call(name: str, *arguments: Any, about: str = "") -> Any:
    """Make the driver call `name` and return its value, a tuple of several, or None.

    FoundryError names the call, its error and what to do; `about` says what the call was for.
    """
    code, value = attempt(name, *arguments)
    check(name, code, about)
    return value


def check(name: str, code: int, about: str = "") -> None:
    """FoundryError where `code`, a CUresult of the call `name`, is an error."""
    if code == 0:
        return
    driver = bindings()
    words = []
    for ask in (driver.cuGetErrorName, driver.cuGetErrorString):
        _, text = ask(driver.CUresult(code))
        words.append((text or b"unknown error").decode())
    where = f" ({about})" if about else ""
    raise FoundryError(explain(code, f"{name}{where}: {words[0]} ({code}), {words[1]}"))
