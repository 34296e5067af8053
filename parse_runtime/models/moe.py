"""The mixture-of-experts block of Qwen3-MoE, on the parameters of a layer."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from parse_runtime.kernels.experts import experts
from parse_runtime.kernels.ranks import Ranks, first_of
from parse_runtime.models.config import ModelConfig


def mixture(
    weights: Mapping[str, Tensor], config: ModelConfig, x: Tensor, ranks: Ranks | None = None
) -> Tensor:
    """The chosen experts' weighted sum [T, hidden] of rows x [T, hidden].

    With `ranks` that of this rank's experts, a share of the sum.
    """
    own = weights["experts_down"]
    return experts(
        x,
        weights["router"],
        weights["experts_gate_up"],
        own,
        config.experts_per_token,
        config.normalize_experts,
        None if ranks is None else first_of(ranks, own.shape[0]),
    )
