"""Weights that a program has in its registers before it waits for the kernel before it.

So memory is read while other kernels run that need little of it, or wait for other ranks.
"""

from __future__ import annotations

import triton
import triton.language as tl

from parse_runtime.kernels.cuda.chain import COMPILED


@triton.jit
def append(values, value):
    """A tuple with one more value."""
    return values + (value,)  # noqa: RUF005 - the compiler knows no unpacking


@triton.jit
def hold(w_row, first, DEPTH: tl.constexpr, TILES: tl.constexpr):
    """Some tiles of the rows `w_row` of a weight; `first` is the number of the first one."""
    held = ()
    for tile in tl.static_range(TILES):
        at = (first + tile) * DEPTH + tl.arange(0, DEPTH)[None, :]
        held = append(held, tl.load(w_row + at, eviction_policy="evict_first"))
    if COMPILED and TILES > 0:
        tl.debug_barrier()  # else loads would wait for each other, to save registers
    settled = ()
    for tile in tl.static_range(TILES):
        settled = append(settled, _settle(held[tile]))
    return settled


@triton.jit
def rows_of(x_row, there, first, DEPTH: tl.constexpr, TILES: tl.constexpr):
    """The tiles of rows `x_row` that the held ones are multiplied by, all on their way at once."""
    rows = ()
    for tile in tl.static_range(TILES):
        at = (first + tile) * DEPTH + tl.arange(0, DEPTH)[None, :]
        rows = append(rows, tl.load(x_row + at, there, other=0.0))
    return rows


@triton.jit
def _settle(x):
    """The same values, which are used after all loads before have been issued."""
    if COMPILED:
        return tl.inline_asm_elementwise(
            "mov.b32 $0, $1;", "=r,r", [x], dtype=x.dtype, is_pure=False, pack=2
        )
    return x
