"""Module variables (`__device__`, `__constant__`) that no longer hold the binary's image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from foundryc.cuda import driver, elf
from foundryc.cuda.extract import DEVICE, MEMORY, CapturedFunction, foreign_pointers
from foundryrt.errors import FoundryError
from foundryrt.printable import quoted

_NOT_FOUND = 500


@dataclass(frozen=True)
class ModuleVariable:
    """A variable of a loaded module: where it is, and what its binary begins it with."""

    name: str
    address: int
    size: int
    initial: bytes


def module_variables(module: int, cubin: bytes) -> list[ModuleVariable]:
    """The CUmodule's variables; without those that the driver does not know by name."""
    found = []
    for symbol in elf.symbols(cubin):
        # Unnamed ones are string literals of assertions and printf.
        if symbol.kind != elf.OBJECT or not symbol.size or symbol.name.startswith("__unnamed"):
            continue
        about = f"variable {symbol.name}"
        code, place = driver.attempt("cuModuleGetGlobal", module, symbol.name.encode())
        if code == _NOT_FOUND:
            continue
        driver.check("cuModuleGetGlobal", code, about)
        address, size = int(place[0]), int(place[1])
        found.append(ModuleVariable(symbol.name, address, size, symbol.initial[:size]))
    return found


def changed(own: Iterable[ModuleVariable]) -> dict[str, bytes]:
    """The variables that were written since their module was loaded, and their bytes.

    A kernel that relies on such a value would find the initial one in another process.
    """
    found = {}
    for variable in own:
        data = bytearray(variable.size)
        about = f"variable {variable.name}"
        driver.call("cuMemcpyDtoH", data, variable.address, variable.size, about=about)
        if data != variable.initial.ljust(variable.size, b"\0"):
            found[variable.name] = bytes(data)
    return found


def pointed_to(function: CapturedFunction, name: str, data: bytes) -> list[int]:
    """The addresses of device memory in a variable of the function's module.

    FoundryError where it holds the address of other memory.
    """
    found = foreign_pointers(np.frombuffer(data[: len(data) // 8 * 8], np.uint64))
    for pointer in found:
        if pointer.memory != DEVICE:
            raise FoundryError(
                f"kernel {quoted(function.name)}: the variable {quoted(name)} of its module holds"
                f" the address {pointer.address:#x} of {MEMORY.get(pointer.memory, 'other')}"
                " memory, which a bundle does not restore; use another operator here"
            )
    return [pointer.address for pointer in found]
