"""A mixture-of-experts block as Qwen3-MoE has it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from parse_runtime.kernels.activations import rounded, rounds_rows
from parse_runtime.kernels.quantized import Weight, plain, split


def experts(
    x: Tensor, router: Tensor, gate_up: Weight, down: Weight, top_k: int, normalize: bool,
    first: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Sum over each row's top_k experts of weight * down(swiglu(gate_up(x))): [T, hidden].

    `x` [T, hidden], `router` [E, hidden], `gate_up` [E, 2I, hidden] (gates first), `down`
    [E, hidden, I]. Weights are the softmax over all experts in float32, divided by the sum of the
    chosen ones where `normalize`. Of equal experts the lower is chosen. Shapes are static: no data
    decides what is computed.

    With `first`, int64 [1], `gate_up` and `down` have fewer experts than the router: those from
    `first` on. The sum is over these alone.
    """
    if x.is_cuda:
        from parse_runtime.kernels.cuda.experts import experts as kernel

        return kernel(x, router, gate_up, down, top_k, normalize, first)
    weights, chosen = route(F.linear(x, router), top_k, normalize)
    # On the CPU all experts are computed, and those that were not chosen weigh nothing.
    dense = torch.zeros(x.shape[0], router.shape[0], dtype=torch.float32, device=x.device)
    dense = dense.scatter(1, chosen, weights)
    if first is not None:
        own = torch.arange(split(down)[0].shape[0], dtype=torch.int64, device=x.device)
        dense = dense.index_select(1, first + own)
    gate, up = _products(x, gate_up).chunk(2, dim=-1)
    y = _products((F.silu(gate) * up).to(x.dtype), down)
    return (y.float() * dense.t()[:, :, None]).sum(0).to(x.dtype)


def _products(x: Tensor, weight: Weight) -> Tensor:
    """[E, T, N] of x [T, K] or [E, T, K] and weights [E, N, K]; of rows in FP8, in float32."""
    if rounds_rows(weight):
        return torch.matmul(rounded(x), plain(weight, torch.float32).transpose(1, 2))
    return torch.matmul(x, plain(weight, x.dtype).transpose(1, 2))


def route(scores: Tensor, top_k: int, normalize: bool) -> tuple[Tensor, Tensor]:
    """Weights float32 and experts int64, both [T, top_k], of router scores [T, E]."""
    # `topk` leaves open which of equal ones it takes.
    ranked, order = scores.float().softmax(-1).sort(dim=-1, descending=True, stable=True)
    weights, chosen = ranked[:, :top_k], order[:, :top_k]
    if normalize:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights, chosen
