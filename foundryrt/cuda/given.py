"""Regions in memory that the caller provides: another session's, or a tensor's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from foundryrt.bundle.schema import Region
from foundryrt.cuda.dlpack import borrowed
from foundryrt.errors import UsageError
from foundryrt.printable import quoted

_ALIGNMENT = 256
"""Bytes; what drivers and allocators give out begins at multiples of it, and kernels rely on it."""


@dataclass(frozen=True)
class Memory:
    """Device memory of a tensor; `keep` holds it."""

    address: int
    size: int
    keep: object = field(repr=False)


@dataclass(frozen=True)
class Shared:
    """A region of another session: the same memory, which lives until both are closed."""

    address: int


Given = Mapping[str, Memory | Shared]


def memory_of(value: object, ordinal: int, where: str) -> Memory:
    """The memory of a tensor with DLPack or `__cuda_array_interface__` on device `ordinal`.

    UsageError where it is none, lies elsewhere or is not contiguous; `where` begins its message.
    """
    if hasattr(value, "__dlpack__"):
        found = borrowed(value)
        if found is None or found.device != ordinal:
            raise UsageError(f"{where}: the tensor is not on CUDA device {ordinal}")
        dense, size, address, keep = found.dense, found.size, found.address, found.capsule
    elif hasattr(value, "__cuda_array_interface__"):
        dense, size, address = _of_interface(value.__cuda_array_interface__)
        keep = value
    else:
        raise UsageError(
            f"{where}: a {type(value).__name__} is neither a session nor a tensor on the GPU (with"
            " __dlpack__ or __cuda_array_interface__)"
        )
    if not dense:
        raise UsageError(f"{where}: the tensor is not contiguous")
    return Memory(address, size, (keep, value))


def _of_interface(interface: Mapping[str, Any]) -> tuple[bool, int, int]:
    shape, strides = tuple(interface["shape"]), interface.get("strides")
    item = int(str(interface["typestr"])[2:])
    dense = tuple(item * prod(shape[i + 1 :]) for i in range(len(shape)))
    return (
        strides is None or 0 in shape or tuple(strides) == dense,
        item * prod(shape),
        int(interface["data"][0] or 0),
    )


def check_memory(region: Region, memory: Memory) -> None:
    """UsageError where the region does not fit there."""
    where = f"region {quoted(region.name)}"
    if memory.size < region.size:
        raise UsageError(f"{where} needs {region.size} bytes, the tensor given has {memory.size}")
    if (memory.address - region.base) % _ALIGNMENT:
        raise UsageError(
            f"{where}: the memory given at {memory.address:#x} must begin at a multiple of"
            f" {_ALIGNMENT} bytes"
        )
