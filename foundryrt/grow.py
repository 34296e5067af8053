"""More rows of a tensor than at capture, such as slots of a cache: the manifest of such a session.

A growing tensor is alone in a foreign region. That lies anywhere, so that no other address changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import index
from typing import SupportsIndex, TypeVar, cast

from msgspec.structs import replace

from foundryrt.bundle.schema import DTYPES, Growth, Manifest, Region, Tensor
from foundryrt.errors import UsageError
from foundryrt.printable import quoted

T = TypeVar("T", Region, Tensor)


def grown(manifest: Manifest, rows: Mapping[str, int]) -> Manifest:
    """The manifest with so many rows, the first dimension, of each of these tensors.

    UsageError where a tensor cannot have so many.
    """
    for name, count in rows.items():
        manifest = _grown(manifest, _growth(manifest, name), _whole(name, count))
    return manifest


def rows_of(manifest: Manifest) -> dict[str, int]:
    """How many rows each growing tensor has, by name."""
    tensors = (manifest.tensors[growth.tensor] for growth in manifest.growing)
    return {tensor.name: tensor.shape[0] for tensor in tensors}


def growing_regions(manifest: Manifest) -> frozenset[str]:
    """Names of the regions that growing tensors are alone in."""
    tensors = (manifest.tensors[growth.tensor] for growth in manifest.growing)
    return frozenset(manifest.regions[tensor.region].name for tensor in tensors)


def _whole(name: str, count: object) -> int:
    """A number of rows as Python's own: sizes of numpy's would wrap around."""
    try:
        return index(cast(SupportsIndex, count))
    except TypeError:
        raise UsageError(f"tensor {quoted(name)}: {count!r} is no number of rows") from None


def _growth(manifest: Manifest, name: str) -> Growth:
    names = [manifest.tensors[growth.tensor].name for growth in manifest.growing]
    if name not in names:
        there = f"there is {', '.join(map(quoted, names))}" if names else "none does"
        raise UsageError(f"no tensor {quoted(name)} of this bundle grows; {there}")
    return manifest.growing[names.index(name)]


def _grown(manifest: Manifest, growth: Growth, count: int) -> Manifest:
    tensor = manifest.tensors[growth.tensor]
    where, had = f"tensor {quoted(tensor.name)}", tensor.shape[0]
    if growth.refused and count != had:
        raise UsageError(
            f"{where} keeps its {had} rows: {growth.refused}; capture with as many as are needed"
        )
    if not had <= count <= growth.most:
        raise UsageError(f"{where} can have {had} to {growth.most} rows, not {count}")
    more = (count - had) * tensor.strides[0] * DTYPES[tensor.dtype]
    region = manifest.regions[tensor.region]
    needs = manifest.requirements
    return replace(
        manifest,
        tensors=_with(manifest.tensors, growth.tensor, shape=(count, *tensor.shape[1:])),
        regions=_with(manifest.regions, tensor.region, size=region.size + more),
        requirements=replace(needs, memory=needs.memory + more),
    )


def _with(things: tuple[T, ...], index: int, **changes: object) -> tuple[T, ...]:
    changed = list(things)
    changed[index] = replace(things[index], **changes)
    return tuple(changed)
