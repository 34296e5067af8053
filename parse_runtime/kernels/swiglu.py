"""The gated MLP's activation, alone and fused into the product before it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from parse_runtime.kernels.activations import rounded, rounds_rows
from parse_runtime.kernels.quantized import Weight, plain
from parse_runtime.kernels.streamed import holds, streams


def swiglu(gate_up: Tensor, gelu: bool = False) -> Tensor:
    """silu(gate) * up, [T, I], of [T, 2I] that holds the gates first.

    With `gelu` it is gelu(gate) * up, GELU being approximated by tanh (GeGLU, as Gemma has it).
    """
    if gate_up.is_cuda:
        from parse_runtime.kernels.cuda.swiglu import swiglu as kernel

        return kernel(gate_up, gelu)
    gate, up = gate_up.chunk(2, dim=-1)
    return (F.gelu(gate, approximate="tanh") if gelu else F.silu(gate)) * up


def linear_swiglu(x: Tensor, gate_up: Weight, gelu: bool = False) -> Tensor:
    """swiglu(linear(x, gate_up), gelu) [T, I] of x [T, K] and gate_up [2I, K].

    Rows are independent as in `linear`.
    """
    if rounds_rows(gate_up):
        if x.is_cuda:
            from parse_runtime.kernels.cuda.block_scaled import block_scaled_swiglu

            return block_scaled_swiglu(x, gate_up, gelu)
        return swiglu(F.linear(rounded(x), plain(gate_up, torch.float32)), gelu).to(x.dtype)
    if holds(x):
        from parse_runtime.kernels.cuda.held import held_product

        held = held_product(x, gate_up, None, True, gelu)
        if held is not None:
            return held[0]
    if streams(x):
        from parse_runtime.kernels.cuda.swiglu import stream_swiglu

        return stream_swiglu(x, gate_up, gelu)
    return swiglu(F.linear(x, plain(gate_up, x.dtype)), gelu)
