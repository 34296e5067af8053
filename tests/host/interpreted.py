"""`interpreted.py SCRIPT` runs a script whose Triton kernels are interpreted (TRITON_INTERPRET=1);
processes that the script spawns import it.

A launch puts the interpreter in place of what triton.language has, and each call of a device
function within it does so again, which takes longer than most of them. Here only those of Triton's
own do, once: they see triton.language.core, where it then stays. Types and shapes, of which each
operation makes some, are looked up where they were made before. Sums of integers are not computed
a second time, for an assertion that Triton has in debug mode alone.

A product of tiles gives each row what it gives it in any other tile, as on a GPU; whether BLAS does
depends on the processor.
"""

from __future__ import annotations

import inspect
import math
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
    """Triton's own makes a table of all types for each that it looks up."""
    element = type_.scalar
    return np.dtype(np.uint64) if element.is_ptr() else numpy_dtype(element)


plain_block = tl.block_type.__init__


@cache
def block_shape(*sizes: int) -> tuple[tl.core.tuple, int, str]:
    """The shape of blocks of these sizes, checked, how many elements they have, its name."""
    block = object.__new__(tl.block_type)
    plain_block(block, tl.int1, list(sizes))
    return block.shape, block.numel, str(block.shape)


def make_block(self: tl.block_type, element: tl.dtype, shape: Any) -> None:
    unwrap = tl.core._unwrap_if_constexpr
    self.shape, self.numel, name = block_shape(*map(unwrap, unwrap(shape)))
    self.element_ty, self.name = element, f"<{name}, {element}>"


@cache
def tensor_shape(*sizes: int) -> tuple[tl.core.tuple, tl.constexpr]:
    """What tensors of these sizes say of their shape."""
    shape = tl.core.tuple([tl.constexpr(size) for size in sizes])
    return shape, tl.constexpr(math.prod(sizes))


def make_tensor(self: tl.tensor, handle: Any, type_: tl.dtype) -> None:
    self.handle, self.type, self.dtype = handle, type_, type_.scalar
    self.shape, self.numel = tensor_shape(*type_.shape if type_.is_block() else ())


tl.block_type.__init__, tl.tensor.__init__ = make_block, make_tensor
interpreter.InterpretedFunction.__call__ = call
interpreter.np = with_matmul()
interpreter._get_np_dtype = dtype_of
interpreter.interpreter_builder.options = interpreter.InterpreterOptions(sanitize_overflow=False)
if __name__ == "__main__":
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
