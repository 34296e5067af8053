"""Arrays for a tensor must be of its shape and dtype: nothing is converted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foundryrt.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from foundryrt.cuda.tensor import DeviceTensor


def check_array(name: str, values: NDArray[Any], place: DeviceTensor | NDArray[Any]) -> None:
    """UsageError unless `values` are like `place`, the tensor `name` that they are meant for."""
    if values.shape != place.shape or values.dtype != place.dtype:
        raise UsageError(
            f"{name} is {place.dtype} {place.shape}, not {values.dtype} {values.shape}"
        )
