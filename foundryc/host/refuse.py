"""What cannot be recorded, and the line of the workload that asked for it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch._ops import OpOverload
from torch.nn.parameter import is_lazy

from foundryrt.errors import FoundryError
from foundryrt.host.admitted import NATIVE
from foundryrt.host.operators import operator_name

_OUTSIDE = (
    *(str(folder) + os.sep for folder in (Path(torch.__file__).parent, Path(__file__).parents[1])),
    contextlib.__file__,
)

_RESIZING = {"resize_", "resize_as_", "set_", "resize", "set", "_resize_output_"}
_UNSAFE = {"from_file", "_efficientzerotensor", "record_stream", "pin_memory", "_pin_memory"}


class NotRecordable(FoundryError):
    """The workload did something inside a graph that a replay cannot repeat."""


def caller() -> str:
    """`file:line` of the innermost frame outside torch and foundryc."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((*_OUTSIDE, "<frozen")):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return "an unknown line"


def refusal(operator: str, why: str, remedy: str) -> NotRecordable:
    """The error for `operator`, naming the workload's line."""
    return NotRecordable(f"{operator} at {caller()} cannot be recorded: it {why}; {remedy}")


def argument(op: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], name: str) -> Any:
    """The value of `op`'s argument `name` in this call, its default included; else None."""
    for i, declared in enumerate(op._schema.arguments):
        if declared.name == name:
            if name in kwargs:
                return kwargs[name]
            return args[i] if i < len(args) else declared.default_value
    return None


def check_operator(op: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse `op` where a replay would differ from this call; raises NotRecordable."""
    name, base = operator_name(op), op._schema.name.split("::")[1]
    if op.namespace != "aten" and name not in NATIVE:
        raise refusal(name, "is no operator of `aten`", "use PyTorch's own operators")
    if base in _RESIZING:
        raise refusal(name, "changes a tensor's memory", "give the tensor its size at creation")
    if base in _UNSAFE:
        raise refusal(name, "reaches outside the arena", "do it before the graph")
    if torch.Tag.nondeterministic_seeded in op.tags and not _draws_nothing(op, args, kwargs):
        raise refusal(
            name, "draws random numbers", "call eval() or write the numbers into an input"
        )
    if torch.Tag.data_dependent_output in op.tags:
        raise refusal(
            name, "brings a tensor's value into Python", "keep the value in a tensor of the graph"
        )
    if torch.Tag.dynamic_output_shape in op.tags and not _static_shape(op, args, kwargs):
        raise refusal(
            name,
            "gives a shape that depends on the data",
            "use a fixed shape, for instance torch.where or topk",
        )
    if base == "native_batch_norm" and _updates_statistics(op, args, kwargs):
        raise refusal(name, "updates running statistics unseen", "call eval()")


def _updates_statistics(op: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    running = (argument(op, args, kwargs, f"running_{name}") for name in ("mean", "var"))
    return bool(argument(op, args, kwargs, "training")) and any(t is not None for t in running)


def _draws_nothing(op: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    declared = {a.name for a in op._schema.arguments}
    for name in ("dropout_p", "dropout"):
        if name in declared and argument(op, args, kwargs, name) == 0:
            return True
    for name in ("train", "training"):
        if name in declared and argument(op, args, kwargs, name) is False:
            return True
    return False


def _static_shape(op: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    base = op._schema.name.split("::")[1]
    if base == "index":
        masks = (torch.bool, torch.uint8)
        return not any(i is not None and i.dtype in masks for i in args[1])
    if base == "repeat_interleave":
        return argument(op, args, kwargs, "output_size") is not None
    return False


def check_tensor(op: str, tensor: torch.Tensor) -> None:
    """Refuse devices and layouts that the host arena cannot hold; raises NotRecordable."""
    if tensor.device.type != "cpu":
        raise refusal(op, f"uses device {tensor.device}", "move the workload to the CPU")
    if is_lazy(tensor):
        raise refusal(
            op, "uses a parameter of a lazy module, which has no shape yet",
            "call the module once before the graph and register its parameters",
        )  # fmt: skip
    if tensor.is_nested:
        raise refusal(
            op, "makes a nested tensor",
            "use dense tensors; of torch.nn.TransformerEncoder, enable_nested_tensor=False",
        )  # fmt: skip
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise refusal(op, f"uses layout {tensor.layout}", "use dense tensors")
