"""`interpreted.py SCRIPT` runs a script whose Triton kernels are interpreted (TRITON_INTERPRET=1).

A launch puts the interpreter in place of what triton.language has, and each call of a device
function within it does so again, which takes longer than most of them. Here only those of Triton's
own do, once: they see triton.language.core, where it then stays.

A product of tiles gives each row what it gives it in any other tile, as on a GPU; whether BLAS does
depends on the processor.
"""

from __future__ import annotations

import inspect
import runpy
import sys
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter


@cache
def prepare(function: Any) -> None:
    modules = filter(inspect.ismodule, function.__globals__.values())
    if tl not in modules:
        interpreter._patch_lang(function)


def call(function: interpreter.InterpretedFunction, *args: Any, **named: Any) -> Any:
    prepare(function.fn)
    return function.rewrite()(*args, **named)


def matmul(a: np.ndarray, b: np.ndarray, dtype: Any = None) -> np.ndarray:
    return np.einsum("...ij,...jk->...ik", a, b, dtype=dtype)


def with_matmul() -> ModuleType:
    """numpy with the `matmul` above."""
    module = ModuleType("numpy")
    vars(module).update(vars(np), matmul=matmul)
    return module


numpy_dtype = cache(interpreter._get_np_dtype)


def dtype_of(type_: tl.dtype) -> np.dtype:
    """Triton's own makes a table of all types each time that it looks one up."""
    element = type_.scalar
    return np.dtype(np.uint64) if element.is_ptr() else numpy_dtype(element)


interpreter.InterpretedFunction.__call__ = call
interpreter.np = with_matmul()
interpreter._get_np_dtype = dtype_of
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
