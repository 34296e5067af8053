"""A norm and the product that reads it: for one row of a small model, one kernel.

Of rows in FP8 the norm quantizes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor

from foundryc.ranks import Ranks
from parse_runtime.kernels.activations import rounds_rows
from parse_runtime.kernels.linear import linear_parts
from parse_runtime.kernels.norm import add_rms_norm, add_rms_norm_fp8
from parse_runtime.kernels.quantized import Weight
from parse_runtime.kernels.streamed import holds
from parse_runtime.kernels.swiglu import linear_swiglu

if TYPE_CHECKING:
    from parse_runtime.kernels.cuda.shares import Sent


def normed_parts(
    x: Tensor | Sent, residual: Tensor | None, norm: Tensor, eps: float, offset: float,
    ranks: Ranks | None, weight: Weight, bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(linear_parts(normed, weight, bias), sum) of what `add_rms_norm` gives; the same bits."""
    if _on_cuda(x) and rounds_rows(weight):
        from parse_runtime.kernels.cuda.block_scaled import block_scaled

        rows, total = add_rms_norm_fp8(x, residual, norm, eps, offset, ranks)
        return block_scaled(rows, weight, bias)[None], total
    if _alone(x, ranks):
        from parse_runtime.kernels.cuda import held

        found = held.normed_product(x, residual, norm, eps, offset, weight, bias)
        if found is not None:
            return found
    normed, total = add_rms_norm(x, residual, norm, eps, offset, ranks)
    return linear_parts(normed, weight, bias), total


def normed_swiglu(
    x: Tensor | Sent, residual: Tensor | None, norm: Tensor, eps: float, offset: float,
    ranks: Ranks | None, gate_up: Weight, gelu: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(linear_swiglu(normed, gate_up, gelu), sum) of what `add_rms_norm` gives; the same bits."""
    if _on_cuda(x) and rounds_rows(gate_up):
        from parse_runtime.kernels.cuda.block_scaled import block_scaled_swiglu

        rows, total = add_rms_norm_fp8(x, residual, norm, eps, offset, ranks)
        return block_scaled_swiglu(rows, gate_up, gelu), total
    if _alone(x, ranks):
        from parse_runtime.kernels.cuda import held

        found = held.normed_product(x, residual, norm, eps, offset, gate_up, None, True, gelu)
        if found is not None:
            return found[0][0], found[1]
    normed, total = add_rms_norm(x, residual, norm, eps, offset, ranks)
    return linear_swiglu(normed, gate_up, gelu), total


def _on_cuda(x: Tensor | Sent) -> bool:
    return not isinstance(x, Tensor) or x.is_cuda


def _alone(x: Tensor | Sent, ranks: Ranks | None) -> TypeGuard[Tensor]:
    """Whether there is one row, which every program of a product normalizes for itself."""
    return isinstance(x, Tensor) and ranks is None and holds(x)
