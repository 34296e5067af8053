"""Programmatic dependent launch: a kernel starts while the one before it still runs.

Every kernel calls `release` first, so that its successor's programs may be made resident early,
and `wait` before it touches anything that another kernel writes or reads. `wait` returns when all
kernels before have finished; a kernel that skips it would break that promise to its successors.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

_COMPILED = tl.constexpr(not triton.knobs.runtime.interpret)

OPTIONS: dict[str, Any] = {"launch_pdl": True} if _COMPILED.value else {}
"""Launch options of every kernel of a chain."""


@triton.jit
def release():
    """Let the next kernel's programs start."""
    if _COMPILED:
        gdc_launch_dependents()


@triton.jit
def wait():
    """Return when all earlier kernels have finished."""
    if _COMPILED:
        gdc_wait()
