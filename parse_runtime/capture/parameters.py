"""A model's weights as registered tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from foundryc.weights import WeightSlice, materialize
from parse_runtime.weights.parameters import Parameter

DTYPES = {
    "float32": torch.float32, "bfloat16": torch.bfloat16, "float8_e4m3fn": torch.float8_e4m3fn,
}  # fmt: skip


class Register(Protocol):
    """`Recorder.register`: moves a tensor into the arena and returns the one there."""

    def __call__(
        self, name: str, tensor: Tensor, role: str, slices: Sequence[WeightSlice] | None = None,
        grows: int | None = None,
    ) -> Tensor: ...  # fmt: skip


def load_parameters(
    name: str, parameters: list[Parameter], dtype: str, register: Register, rank: int = 0
) -> dict[str, Tensor]:
    """Read the weights, of several ranks those of `rank`, and register them.

    As `<name>.<parameter>` in `dtype`, or the parameter's own.
    """
    loaded = {}
    for parameter in parameters:
        kind = parameter.dtype or dtype
        values = torch.from_numpy(materialize(parameter.slices, parameter.shape, kind, rank))
        tensor = values.view(DTYPES.get(kind, values.dtype))
        loaded[parameter.name] = register(
            f"{name}.{parameter.name}", tensor, "weight", parameter.slices
        )
    return loaded
