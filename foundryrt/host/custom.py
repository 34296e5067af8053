"""This package's own operators of torch, which a host bundle may call.

A hostile bundle may call them too, with anything: each looks at its arguments itself, and `fits`
has the same question asked before a graph's first launch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from foundryrt.errors import FoundryError

NAMESPACE = "foundry"
T = TypeVar("T")

# As long as the process: with the library its operators would go.
_LIBRARY = torch.library.Library(NAMESPACE, "DEF")  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Operator(Generic[T]):
    """How an operator is declared, what its arguments must be, and what runs it.

    `look` gives what `run` needs beside the arguments, by name; None unless these fit each other.
    """

    schema: str
    look: Callable[[Mapping[str, Any]], T | None]
    run: Callable[[Mapping[str, Any], T], None]

    @property
    def name(self) -> str:
        """Its name in the namespace."""
        return self.schema.partition("(")[0]

    def fits(self, a: Mapping[str, Any]) -> bool:
        """Whether a call's arguments, by name, fit each other."""
        return self.look(a) is not None

    def define(self) -> None:
        """Make it an operator of torch."""
        _LIBRARY.define(self.schema)  # type: ignore[no-untyped-call]
        overload = getattr(getattr(torch.ops, NAMESPACE), self.name).default
        names = tuple(argument.name for argument in overload._schema.arguments)

        def call(*args: Any, **kwargs: Any) -> None:
            a = dict(zip(names, args, strict=False)) | kwargs
            seen = self.look(a)
            if seen is None:
                raise FoundryError(f"{NAMESPACE}::{self.name}: its arguments do not fit each other")
            self.run(a, seen)

        _LIBRARY.impl(self.name, call, "CPU")  # type: ignore[no-untyped-call]


def is_plain(tensor: Tensor, dtype: torch.dtype, *shape: int) -> bool:
    """Whether `tensor` is dense, on the CPU, and of that dtype and shape."""
    return (
        tensor.dtype == dtype
        and tuple(tensor.shape) == shape
        and tensor.is_contiguous()
        and tensor.device.type == "cpu"
        and not (tensor.is_conj() or tensor.is_neg())
    )
