"""Calls of a bundle's operators, checked before they are made.

Sizes, strides and numbers of a call never change: `check` looks at them once. What an index tensor
holds does: `contents` gives what to ask before each call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from foundryrt.errors import FoundryError
from foundryrt.host.overlap import is_disjoint, is_same, overlap
from foundryrt.host.trusted import CHECKS, CONTENTS, Arguments, Check


def check(op: OpOverload[..., Any], a: Arguments, results: tuple[Tensor | None, ...]) -> None:
    """FoundryError unless a call of `op` with arguments `a` stays inside its tensors."""
    schema = _schema(op)
    for declared in schema.arguments:
        declared.check(a[declared.name])
    _check_written(schema, a, results)
    if schema.fits is not None and not schema.fits(a):
        raise FoundryError("its arguments do not fit each other")


def contents(op: OpOverload[..., Any], a: Arguments) -> Callable[[], bool] | None:
    """What must hold of the contents of `a` before each call; None where nothing must."""
    holds = _schema(op).holds
    return None if holds is None else lambda: holds(a)


@dataclass(frozen=True)
class _Argument:
    """What ATen's own parser lets pass and an operator may rely on."""

    name: str
    is_tensor: bool
    is_written: bool
    kind: type | None
    default: object
    lengths: frozenset[int]

    def check(self, value: Any) -> None:
        """FoundryError for a tensor in a number's place, a code in a dtype's, a wrong length."""
        # The value of a tensor could change after it was checked.
        if not self.is_tensor and _tensors(value):
            raise FoundryError(f"its {self.name} is a tensor")
        named = value is None or self.kind is None or isinstance(value, self.kind)
        if not named and not (type(value) is int and value == self.default):
            raise FoundryError(f"its {self.name} is of a wrong type")
        if self.lengths and isinstance(value, list) and len(value) not in self.lengths:
            raise FoundryError(f"its {self.name} has {len(value)} numbers, not {max(self.lengths)}")


@dataclass(frozen=True)
class _Schema:
    arguments: tuple[_Argument, ...]
    is_elementwise: bool
    fits: Check | None
    holds: Check | None


_KINDS: dict[str, type] = {
    "ScalarType": torch.dtype,
    "Layout": torch.layout,
    "MemoryFormat": torch.memory_format,
    "Device": torch.device,
}
"""What a schema calls an int, or any device, that is more to ATen."""


@cache
def _schema(op: OpOverload[..., Any]) -> _Schema:
    base = op._schema.name.removeprefix("aten::")
    elementwise = torch.Tag.pointwise in op.tags or base == "copy_" or base.startswith("_foreach_")
    return _Schema(
        tuple(_argument(base, declared) for declared in op._schema.arguments),
        elementwise,
        CHECKS.get(base),
        CONTENTS.get(base),
    )


def _argument(base: str, declared: Any) -> _Argument:
    real = str(declared.real_type).removeprefix("Optional[").removesuffix("]")
    lengths: set[int] = set()
    # A length of 1 says no more than that one number may stand for all.
    if (declared.N or 1) > 1:
        lengths = {declared.N}
        if "_pad" not in base and declared.name != "output_mask":
            lengths |= {1} | ({0} if declared.name == "stride" else set())
    return _Argument(
        declared.name,
        "Tensor" in str(declared.type),
        declared.alias_info is not None and declared.alias_info.is_write,
        _KINDS.get(real),
        declared.default_value,
        frozenset(lengths),
    )


def _check_written(schema: _Schema, a: Arguments, results: tuple[Any, ...]) -> None:
    """No element is written twice, nor are indices read that the call wrote over."""
    written = [t for x in schema.arguments if x.is_written for t in _tensors(a[x.name])]
    if not all(is_disjoint(t) for t in (*written, *results) if t is not None):
        raise FoundryError("a tensor that it writes overlaps itself")
    # What goes element by element reads each where it writes, and of other views ATen takes care.
    if schema.is_elementwise or not written:
        return
    if any(overlap(x, y) for x, y in combinations(written, 2)):
        raise FoundryError("tensors that it writes overlap")
    for x in schema.arguments:
        for t in [] if x.is_written else _tensors(a[x.name]):
            whole = not (t.is_floating_point() or t.is_complex())
            if whole and any(overlap(t, y) and not is_same(t, y) for y in written):
                raise FoundryError("it writes over its own indices")


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for t in value if isinstance(t, Tensor)] if isinstance(value, list) else []
