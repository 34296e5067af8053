"""What a thread does not use of its stack, filled: it ends up in kernels' arguments.

Arguments are structs that calls build on the stack, whose gaps, and rows for dimensions that a
tensor does not have, hold what was there before: parts of addresses, counters, the arguments of an
earlier launch. None of it is the program's, and hardly any of it repeats itself.

What a call leaves itself on its way to the launch repeats itself, but for what the C library's
allocator does: how far it has to look for memory depends on all that the process did before.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from foundryc.native import library

_Function = ctypes.PYFUNCTYPE(None, ctypes.c_void_p, ctypes.py_object)


@contextmanager
def filled(value: int, after_allocations: bool = True) -> Iterator[None]:
    """Every line of Python in the body, and every call of a function in C, begins with a stack
    that holds the byte `value` wherever it is unused; and every allocation ends with one, where
    wanted: for that, every library's addresses of the allocator are replaced.

    For the calling thread. A debugger or profiler does not see the body.
    """
    core = library()
    core.foundryc_fill_with(value)
    trace = ctypes.cast(core.foundryc_trace, ctypes.c_void_p)
    tracer, profiler = sys.gettrace(), sys.getprofile()
    try:
        for name in ("PyEval_SetTrace", "PyEval_SetProfile"):
            _Function((name, ctypes.pythonapi))(trace, None)
        core.foundryc_fill_after_allocations(after_allocations)
        yield
    finally:
        core.foundryc_fill_after_allocations(False)
        sys.settrace(tracer)
        sys.setprofile(profiler)
