"""Arrays for a tensor must be of its shape and dtype: nothing is converted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foundryrt.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from foundryrt.protocols import Tensor


def as_array(name: str, values: object) -> NDArray[Any]:
    """`values` for the tensor `name` as numpy's array; UsageError where they are none."""
    import numpy as np

    try:
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:  # torch's, of a tensor with a gradient
        raise UsageError(f"{name}: no array can be made of the values: {error}") from error


def check_array(name: str, values: NDArray[Any], tensor: Tensor) -> None:
    """UsageError unless `values` are of the shape and dtype of the tensor `name`."""
    if not hasattr(values, "shape"):
        raise UsageError(f"{name}: is a {type(values).__name__}; give an array")
    if values.shape != tensor.shape or values.dtype != tensor.dtype:
        raise UsageError(
            f"{name} is {tensor.dtype} {tensor.shape}, not {values.dtype} {values.shape}"
        )
