"""What a finished recording's memory begins with in another process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from foundryc.capture import RegionImage
from foundryc.cuda.arena import Arena, Region
from foundryc.cuda.foreign import FOREIGN, ForeignRegion
from foundryc.packed import runs
from foundryc.template import Spans, relocations
from foundryrt.bundle.schema import Relocation

Bytes = npt.NDArray[np.uint8]


def arena_image(
    arena: Arena,
    region: Region,
    stored: Sequence[torch.Tensor],
    initial: Mapping[int, Bytes],
    world: int,
) -> RegionImage:
    """A region and its first bytes: the weights `stored`, elsewhere those of `initial`.

    The slabs of `world` ranks are zeros.
    """
    if world and region.name == "symmetric":
        return RegionImage(region.name, region.base, region.used, peer_stride=region.used // world)
    base, size = region.base, region.used
    if region.name == "weights":
        spans = [(t.data_ptr(), t.numel() * t.element_size()) for t in stored if t.numel()]
        read = partial(_spans, arena, base, sorted(spans)) if spans else None
        return RegionImage(region.name, base, size, read, compress=False)
    saved = {a - base: d for a, d in initial.items() if base <= a < base + size}
    return RegionImage(region.name, base, size, partial(_filled, saved) if saved else None)


def foreign_image(number: int, region: ForeignRegion, spans: Spans) -> RegionImage:
    """The foreign region of that number; of one that will be given, nothing but its place."""
    image = RegionImage(
        region.name or f"{FOREIGN} {number}",
        region.base,
        region.size,
        (lambda: [region.data.data]) if region.data.size else None,
        owner=region.owner,
        given=bool(region.name),
    )
    return replace(image, relocations=pointers(image, spans))


def pointers(image: RegionImage, spans: Spans) -> tuple[Relocation, ...]:
    """The addresses among what a region begins with; weights hold none."""
    if image.name == "weights":
        return ()
    return tuple(
        Relocation(offset=at + found.offset, region=found.region)
        for at, data in runs(image.initial)
        for found in relocations(np.frombuffer(data, np.uint8), spans)
    )


def _spans(
    arena: Arena, base: int, spans: Sequence[tuple[int, int]]
) -> Iterator[bytes | memoryview]:
    """Bytes of the device from `base` to the end of the last span, zeros between spans."""
    end = base
    for address, size in spans:
        yield bytes(address - end)
        yield from arena.read(address, size)
        end = address + size


def _filled(saved: Mapping[int, Bytes]) -> list[memoryview]:
    """Bytes by offset as one run, with zeros between them."""
    image = np.zeros(max(at + data.size for at, data in saved.items()), np.uint8)
    for at, data in saved.items():
        image[at : at + data.size] = data
    return [image.data]
