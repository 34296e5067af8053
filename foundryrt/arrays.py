"""Arrays for a tensor must be of its shape and dtype: nothing is converted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foundryrt.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from foundryrt.protocols import Tensor


def check_array(name: str, values: NDArray[Any], tensor: Tensor) -> None:
    """UsageError unless `values` are of the shape and dtype of the tensor `name`."""
    if values.shape != tensor.shape or values.dtype != tensor.dtype:
        raise UsageError(
            f"{name} is {tensor.dtype} {tensor.shape}, not {values.dtype} {values.shape}"
        )
