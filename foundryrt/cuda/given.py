"""Regions in memory that the caller provides: another session's, or a tensor's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from foundryrt.bundle.schema import Manifest, Region, WeightRecipe
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


def check_alike(name: str, own: Manifest, other: Manifest) -> None:
    """UsageError unless both bundles have the same tensors from the same sources in a region."""
    mine, others = (_contents(name, manifest) for manifest in (own, other))
    if mine == others:
        return
    unlike = next(
        (key for key in sorted(mine | others) if mine.get(key) != others.get(key)), "its size"
    )
    raise UsageError(
        f"region {quoted(name)} cannot be shared: the other session's has not the same contents"
        f" ({quoted(str(unlike))})"
    )


def _contents(name: str, manifest: Manifest) -> dict[str, object]:
    """What a region has where, and where it comes from; by tensor, and the size."""
    index = next((i for i, r in enumerate(manifest.regions) if r.name == name), -1)
    recipes = {recipe.tensor: recipe for recipe in manifest.weights.recipes}
    found: dict[str, object] = {
        tensor.name: (tensor.offset, tensor.dtype, tensor.shape, tensor.strides,
                      _sources(manifest, recipes.get(number)))
        for number, tensor in enumerate(manifest.tensors)
        if tensor.region == index and tensor.graph == -1
    }  # fmt: skip
    return found | {"its size": manifest.regions[index].size if index >= 0 else 0}


def _sources(manifest: Manifest, recipe: WeightRecipe | None) -> tuple[object, ...]:
    """A weight's copies with the digest of what each is copied from."""
    if recipe is None:
        return ()
    sources = manifest.weights.sources
    return tuple(
        (sources[copy.source].digest, sources[copy.source].dtype,
         *(getattr(copy, name) for name in copy.__struct_fields__ if name != "source"))
        for copy in recipe.copies
    )  # fmt: skip
