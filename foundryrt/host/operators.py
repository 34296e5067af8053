"""Operators by the names that a bundle has for them."""

from __future__ import annotations

from typing import Any

import torch
from torch._ops import OpOverload, OpOverloadPacket

from foundryrt.errors import FoundryError
from foundryrt.host import exchange, zak  # noqa: F401  make their operators known to torch
from foundryrt.host.admitted import check_name


def operator_name(op: OpOverload[..., Any]) -> str:
    """`aten::add.out` for torch.ops.aten.add.out; the default overload goes without a name."""
    name: str = op.name()  # type: ignore[no-untyped-call]
    return name


def operator(name: str) -> OpOverload[..., Any]:
    """The overload called `name`, such as `aten::add.out`; raises FoundryError if not allowed."""
    check_name(name)
    namespace, _, rest = name.partition("::")
    base, _, overload = rest.partition(".")
    overload = overload or "default"
    packet = getattr(getattr(torch.ops, namespace), base, None)
    if not isinstance(packet, OpOverloadPacket) or overload not in packet.overloads():  # type: ignore[no-untyped-call]
        raise FoundryError(
            f"this torch {torch.__version__} has no operator {name}; "
            "run the bundle with the torch release that it was captured with"
        )
    found: OpOverload[..., Any] = getattr(packet, overload)
    return found
