"""Kernel binaries of the process, and which one a function came from."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_int64
from dataclasses import dataclass

from foundryc.cuda import elf, wheels
from foundryc.native import ModuleView, check, library
from foundryrt.errors import FoundryError


def _libcupti() -> str:
    """The libcupti that torch brings: a second one in the process would see nothing."""
    return ["libcupti.so.13", *wheels.installed("libcupti")][-1]


def start() -> None:
    """Subscribe to the driver's module loads; must come before the process's first CUDA call."""
    check(library().foundryc_start_harvest(_libcupti().encode()))


def pass_calls(count: int) -> None:
    """Make so many driver calls, which the process's CUPTI counts."""
    check(library().foundryc_pass_calls(count))


@dataclass(frozen=True)
class Module:
    """A module that the driver loaded: its binary, and the driver call that loaded it."""

    cubin: bytes
    call: str
    unloaded: bool


class Harvest:
    """The modules loaded so far."""

    def __init__(self) -> None:
        self._modules: list[Module] = []
        self._names: list[frozenset[str]] = []

    def modules(self) -> list[Module]:
        """All modules, in order of loading."""
        core = library()
        for index in range(len(self._modules), core.foundryc_module_count()):
            view = ModuleView()
            check(core.foundryc_module_at(index, byref(view)))
            cubin = ctypes.string_at(view.cubin, view.size)
            call = (view.call or b"").decode()
            self._modules.append(Module(cubin, call, bool(view.unloaded)))
            names = (s.name for s in elf.symbols(cubin) if s.kind == elf.FUNCTION)
            self._names.append(frozenset(names))
        return self._modules

    def binary_of(self, name: str, handle: int) -> bytes:
        """The cubin with the function `name` of the CUmodule `handle`.

        FoundryError where no loaded binary, or several different ones, could be the one.
        """
        modules = self.modules()
        found = c_int64()
        check(library().foundryc_find_module(handle, byref(found)))
        if found.value >= 0 and name in self._names[found.value]:
            return modules[found.value].cubin
        # Not tied by a call: what the name leaves is exact only if it is one binary.
        candidates = {
            m.cubin for m, names in zip(modules, self._names, strict=True) if name in names
        }
        if len(candidates) == 1:
            return candidates.pop()
        calls = sorted(
            {m.call or "none seen" for m, n in zip(modules, self._names, strict=True) if name in n}
        )
        raise FoundryError(
            f"kernel {name}: {len(candidates)} different binaries could hold it (loaded by"
            f" {', '.join(calls) or 'no call'}); start the recorder before the first CUDA call"
        )
