"""Where buffers lie in the arena, and the bytes their regions begin with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from foundryc.capture import RegionImage
from foundryc.host.buffers import Buffer
from foundryc.host.plan import align
from foundryrt.bundle.schema import ALIGNMENT


@dataclass(frozen=True)
class Layout:
    """Absolute address of every lasting buffer; `scratch` is the base of that region."""

    images: tuple[RegionImage, ...]
    addresses: dict[Buffer, int]
    scratch: int

    def region_of(self, address: int) -> int:
        """Index of the region that holds `address`."""
        bases = [i for i, image in enumerate(self.images) if image.base <= address]
        return bases[-1] if bases else 0


def arrange(
    regions: Sequence[tuple[str, Sequence[Buffer]]],
    scratch: int,
    initial: Mapping[Buffer, torch.Tensor],
    embedded: bool,
    world: int = 0,
) -> Layout:
    """Buffers one after another, region after region, then `scratch` bytes.

    `initial` holds uint8 contents of the buffers that do not begin as zeros; `embedded` marks a
    weights region that is stored as it is, `world` counts the slabs in `symmetric`. Regions of no
    bytes are left out.
    """
    images: list[RegionImage] = []
    addresses: dict[Buffer, int] = {}
    base = 0
    for name, buffers in regions:
        offset = 0
        for buffer in buffers:
            addresses[buffer] = base + offset
            offset += align(buffer.nbytes)
        size = align(offset, ALIGNMENT)
        filled = [b for b in buffers if b in initial]
        if size:
            source = _Image(tuple((addresses[b] - base, initial[b]) for b in filled))
            compress = not (name == "weights" and embedded)
            stride = size // world if name == "symmetric" else 0
            images.append(
                RegionImage(
                    name, base, size, source if filled else None, compress, peer_stride=stride
                )
            )
        base += size
    size = align(scratch, ALIGNMENT)
    if size:
        images.append(RegionImage("scratch", base, size))
    if not images:
        # Tensors without elements lie somewhere too.
        images.append(RegionImage("io", 0, ALIGNMENT))
    return Layout(tuple(images), addresses, base)


@dataclass(frozen=True)
class _Image:
    parts: Iterable[tuple[int, torch.Tensor]]

    def __call__(self) -> Iterator[bytes | memoryview]:
        end = 0
        for offset, contents in self.parts:
            yield bytes(offset - end)
            yield contents.numpy().data
            end = offset + contents.numel()
