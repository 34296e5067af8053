"""Which products are bound by the memory that their weights come from."""

from __future__ import annotations

from torch import Tensor

from parse_runtime.kernels.rows import STREAMED_ROWS


def streams(x: Tensor) -> bool:
    """Whether products of these rows run by the weight-streaming kernels."""
    return x.is_cuda and x.shape[0] <= STREAMED_ROWS
