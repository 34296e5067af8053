"""Which products are bound by the memory that their weights come from."""

from __future__ import annotations

from torch import Tensor

STREAMED_ROWS = 64
"""Above so many rows a product is bound by arithmetic, and the library's is used."""


def streams(x: Tensor) -> bool:
    """Whether products of these rows run by the weight-streaming kernels."""
    return x.is_cuda and x.shape[0] <= STREAMED_ROWS
