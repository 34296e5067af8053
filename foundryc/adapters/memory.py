"""Memory of an engine by names that are the same in every process of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from foundryrt.bundle.check import extent

_ALIGNMENT = 512
"""Bytes; as torch's own allocations."""
_DEPTH = 8


def storage_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """All memory that a tensor's storage has, uint8 [bytes]."""
    whole = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    whole.set_(tensor.untyped_storage())
    return whole


def named_memory(root: object, package: str, device: torch.device) -> dict[str, torch.Tensor]:
    """Tensors on `device` that `root` leads to, one of each storage, by the path that leads there.

    Objects of classes of `package`, lists, tuples and dicts are looked into, the nearest first;
    modules are not (`gather`).
    """
    found: dict[int, tuple[str, torch.Tensor]] = {}
    seen = {id(root)}
    pending: deque[tuple[str, object, int]] = deque([("", root, 0)])
    while pending:
        path, parent, depth = pending.popleft()
        for name, child in _children(parent, package):
            where = f"{path}.{name}" if path else name
            if isinstance(child, torch.Tensor):
                if child.device == device and child.untyped_storage().nbytes():
                    found.setdefault(child.untyped_storage().data_ptr(), (where, child))
            elif depth < _DEPTH and id(child) not in seen:
                seen.add(id(child))
                pending.append((where, child, depth + 1))
    return dict(found.values())


def _children(parent: object, package: str) -> Iterator[tuple[str, object]]:
    if isinstance(parent, dict):
        yield from ((str(key), value) for key, value in parent.items())
    elif isinstance(parent, (list, tuple)):
        yield from ((str(index), value) for index, value in enumerate(parent))
    elif type(parent).__module__.partition(".")[0] == package and not isinstance(
        parent, torch.nn.Module
    ):
        slots = [name for kind in type(parent).__mro__ for name in _slots(kind)]
        yield from ((name, getattr(parent, name)) for name in slots if hasattr(parent, name))
        yield from vars(parent).items() if hasattr(parent, "__dict__") else ()


def _slots(kind: type) -> Iterable[str]:
    names = kind.__dict__.get("__slots__", ())
    return (names,) if isinstance(names, str) else names


@dataclass(frozen=True)
class Gathered:
    """The tensors of a module in one piece of memory, uint8 [bytes]; `layout` says what is where.

    An entry of it is a tensor's name, offset in bytes, dtype, shape and strides.
    """

    memory: torch.Tensor
    layout: list[tuple[str, int, str, list[int], list[int]]]


def gather(module: torch.nn.Module, device: torch.device) -> Gathered:
    """Move the parameters and buffers of `module` on `device` into one piece of memory.

    Their storage is free for others afterwards; for a moment there is twice as much of it. Tensors
    that share memory, tied weights, go on doing so where they are views of the same elements.
    """
    tensors: dict[str, torch.Tensor] = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    places: dict[tuple[object, ...], int] = {}
    layout, owners, end = [], [], 0
    for name, tensor in tensors.items():
        if tensor.device != device or not tensor.numel() or 0 in tensor.stride():
            continue
        key = tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()
        if key not in places:
            places[key] = end
            end += -(-_size(tensor) // _ALIGNMENT) * _ALIGNMENT
        dtype = str(tensor.dtype).removeprefix("torch.")
        layout.append((name, places[key], dtype, list(tensor.shape), list(tensor.stride())))
        owners.append(tensor)
    memory = torch.empty(end, dtype=torch.uint8, device=device)
    with torch.no_grad():
        for (_, offset, _, shape, strides), tensor in zip(layout, owners, strict=True):
            span = memory[offset : offset + _size(tensor)]
            placed = span.view(tensor.dtype).as_strided(shape, strides)
            placed.copy_(tensor)
            tensor.data = placed
    return Gathered(memory, layout)


def _size(tensor: torch.Tensor) -> int:
    """Bytes from its first element to its last one."""
    return extent(tuple(tensor.shape), tensor.stride()) * tensor.element_size()
