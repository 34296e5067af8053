"""Kernel binaries pruned to what a bundle uses, each proven by loading it."""

from __future__ import annotations

from typing import Any

from foundryc.cuda.driver import attempt, bindings
from foundryc.cuda.prune import prune

# Threads, static shared, constant and local bytes, registers, PTX and binary version.
_ATTRIBUTES = range(7)
_Facts = tuple[tuple[int, ...], tuple[tuple[int, int], ...]]


def pruned(cubin: bytes, names: set[str]) -> bytes:
    """The cubin with the kernels `names` alone; as it is where the driver tells a difference."""
    cut = prune(cubin, names)
    if cut is cubin:
        return cubin
    facts = _facts(cubin, names)
    return cut if facts is not None and facts == _facts(cut, names) else cubin


def _facts(cubin: bytes, names: set[str]) -> list[_Facts] | None:
    """What the driver says about each kernel; None where it refuses the binary."""
    code, library = attempt("cuLibraryLoadData", cubin, None, None, 0, None, None, 0)
    if code:
        return None
    try:
        return [_kernel_facts(library, name) for name in sorted(names)]
    except LookupError:
        return None
    finally:
        attempt("cuLibraryUnload", library)


def _kernel_facts(library: Any, name: str) -> _Facts:
    def ask(call: str, *arguments: Any) -> Any:
        code, value = attempt(call, *arguments)
        if code:
            raise LookupError(name)
        return value

    kernel = ask("cuLibraryGetKernel", library, name.encode())
    function = ask("cuKernelGetFunction", kernel)
    attribute = bindings().CUfunction_attribute
    values = [ask("cuFuncGetAttribute", attribute(number), function) for number in _ATTRIBUTES]
    arguments: list[tuple[int, int]] = []
    while True:
        code, place = attempt("cuKernelGetParamInfo", kernel, len(arguments))
        if code:
            return tuple(values), tuple(arguments)
        arguments.append(place)
