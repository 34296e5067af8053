"""The mixture-of-experts block of Qwen3-MoE, on the parameters of a layer."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from parse_runtime.kernels.experts import experts
from parse_runtime.kernels.quantized import weight_of
from parse_runtime.models.config import ModelConfig


def mixture(
    weights: Mapping[str, Tensor], config: ModelConfig, x: Tensor, first: Tensor | None = None
) -> Tensor:
    """The chosen experts' weighted sum [T, hidden] of rows x [T, hidden].

    With `first`, int64 [1], that of a rank's experts, which begin there: a share of the sum.
    """
    return experts(
        x,
        weights["router"],
        weight_of(weights, "experts_gate_up"),
        weight_of(weights, "experts_down"),
        config.experts_per_token,
        config.normalize_experts,
        first,
    )
