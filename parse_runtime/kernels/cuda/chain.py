"""Programmatic dependent launch: a kernel starts while the one before it still runs.

The rule for every kernel launched with OPTIONS (tests/host/test_parse_kernels_compiled.py reads it
off the compiled code):
1. Each program calls `release` first. Once all have, the next kernel's programs may be resident.
2. Each program calls `wait`, on every way through it, before it reads or writes anything that is
   not a weight. `wait` returns when the kernel before has ended and its writes can be seen. That
   kernel could only end after its own `wait`, and so on: all earlier kernels have ended, too. So
   overwriting what they read, and memory that the allocator hands out again, need no other care.
3. Weights may be read before `wait`: they are there before a pass is launched.
A kernel, copy or fill launched without OPTIONS, as torch's are, begins after the one before it has
ended, and a graph after what its stream did before. Bundles keep ports and types of edges.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

COMPILED = tl.constexpr(not triton.knobs.runtime.interpret)

OPTIONS: dict[str, Any] = {"launch_pdl": True} if COMPILED.value else {}
"""Launch options of every kernel of a chain."""

F = TypeVar("F", bound=Callable[..., Any])


def opaque(function: F) -> F:
    """Keep torch.compile out of a function that launches kernels.

    It would launch them without OPTIONS, and, as it cannot see through `wait`, take all that they
    are given for overwritten, weights and cache included, and copy it.
    """
    kept: F = torch.compiler.disable(function)
    return kept


def side_by_side(*tensors: Tensor) -> list[Tensor]:
    """As kernels read numbers of rows: one behind the other, where they may have been broadcast."""
    return [tensor.contiguous() for tensor in tensors]


@triton.jit
def release():
    """Let the next kernel's programs start."""
    if COMPILED:
        gdc_launch_dependents()


@triton.jit
def wait():
    """Return when all earlier kernels have finished."""
    if COMPILED:
        gdc_wait()
