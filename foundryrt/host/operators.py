"""Which operators a host bundle may name.

An operator's name is the one thing in a host bundle that makes code run. So only overloads of
`aten` that compute on tensors are looked up: nothing that opens files, takes memory from
elsewhere, or moves a tensor off its place in the arena.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch._ops import OpOverload, OpOverloadPacket

from foundryrt.errors import FoundryError

_NAME = re.compile(r"aten::([A-Za-z0-9_]+)(?:\.([A-Za-z0-9_]+))?")
_DENIED = {
    "from_file", "set_", "set", "resize_", "resize", "resize_as_", "resize_as", "_resize_output_",
    "_resize_output", "record_stream", "pin_memory", "_pin_memory", "_print", "save", "load",
    "warn", "eval", "format", "_storage_Use_Count",
}  # fmt: skip
_ALLOWED_TYPES = re.compile(
    r"(Optional\[)?(List\[)?(Optional\[)?"
    r"(Tensor|int|float|number|bool|str|complex|Device|SymInt)\]*"
)
_FILE_ARGUMENTS = {"filename", "file", "path", "storage", "source_storage"}


def operator_name(op: OpOverload[..., Any]) -> str:
    """`aten::add.out` for torch.ops.aten.add.out; the default overload goes without a name."""
    name: str = op.name()  # type: ignore[no-untyped-call]
    return name


def operator(name: str) -> OpOverload[..., Any]:
    """The overload called `name`, such as `aten::add.out`; raises FoundryError if not allowed."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise FoundryError(f"damaged bundle: {name!r} is no operator of the aten namespace")
    base, overload = match.group(1), match.group(2) or "default"
    if base in _DENIED:
        raise FoundryError(f"the bundle calls {name}, which a bundle may not do")
    packet = getattr(torch.ops.aten, base, None)
    if not isinstance(packet, OpOverloadPacket) or overload not in packet.overloads():  # type: ignore[no-untyped-call]
        raise FoundryError(
            f"this torch {torch.__version__} has no operator {name}; "
            "run the bundle with the torch release that it was captured with"
        )
    found = getattr(packet, overload)
    _check_schema(name, found)
    return found  # type: ignore[no-any-return]


def _check_schema(name: str, op: OpOverload[..., Any]) -> None:
    for declared in op._schema.arguments:
        if declared.name in _FILE_ARGUMENTS:
            raise FoundryError(f"the bundle calls {name}, which reaches outside the arena")
        fits = _ALLOWED_TYPES.fullmatch(str(declared.type)) is not None
        if not fits and not declared.has_default_value():
            raise FoundryError(f"the bundle calls {name}, which takes a {declared.type}")
