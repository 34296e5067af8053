"""Module variables (`__device__`, `__constant__`) that no longer hold the binary's image."""

from __future__ import annotations

import numpy as np

from foundryc.cuda import driver, elf
from foundryc.cuda.extract import MEMORY, CapturedFunction, foreign_pointers
from foundryrt.errors import FoundryError
from foundryrt.printable import quoted

_NOT_FOUND, _DEVICE = 500, 2


def changed(module: int, cubin: bytes) -> dict[str, bytes]:
    """The CUmodule's variables that were written since it was loaded, and their bytes.

    A kernel that relies on such a value would find the initial one in another process.
    """
    found = {}
    for symbol in elf.symbols(cubin):
        # Unnamed ones are string literals of assertions and printf.
        if symbol.kind != elf.OBJECT or not symbol.size or symbol.name.startswith("__unnamed"):
            continue
        about = f"variable {symbol.name}"
        code, place = driver.attempt("cuModuleGetGlobal", module, symbol.name.encode())
        if code == _NOT_FOUND:
            continue
        driver.check("cuModuleGetGlobal", code, about)
        address, size = place
        data = bytearray(size)
        driver.call("cuMemcpyDtoH", data, address, size, about=about)
        if data != symbol.initial[:size].ljust(size, b"\0"):
            found[symbol.name] = bytes(data)
    return found


def pointed_to(function: CapturedFunction, name: str, data: bytes) -> list[int]:
    """The addresses of device memory in a variable of the function's module.

    FoundryError where it holds the address of other memory.
    """
    found = foreign_pointers(np.frombuffer(data[: len(data) // 8 * 8], np.uint64))
    for pointer in found:
        if pointer.memory != _DEVICE:
            raise FoundryError(
                f"kernel {quoted(function.name)}: the variable {quoted(name)} of its module holds"
                f" the address {pointer.address:#x} of {MEMORY.get(pointer.memory, 'other')}"
                " memory, which a bundle does not restore; use another operator here"
            )
    return [pointer.address for pointer in found]
