"""Device memory at addresses that are the same in every capture."""

from __future__ import annotations

from collections.abc import Iterator
from ctypes import byref, c_uint64
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from foundryc.native import PATH, check, library
from foundryrt.bundle.schema import REGIONS

BASE = 0x600000000000
REGION_OF_ROLE = {
    "weight": "weights", "state": "state",
    # Not with the state: initial bytes are a region's prefix, and state may be gigabytes of zeros.
    "constant": "io", "input": "io", "output": "io",
}  # fmt: skip
CAPACITY = 256 << 30
"""Addresses a region may take: more than any device has memory."""
SPAN = 2 << 40
"""Bases of arenas that are to exist together are this far apart."""
_MOVED_BY, _MOVED_FIRST = (4 << 30) + (6 << 20), 96 << 20
"""Bytes; a move shows in both halves of an address. Drivers round the start of a large range up to
a multiple of 32 MiB (580.159, H200)."""
ALIGNMENT = 256
_PAGE = 2 << 20
"""Bytes; what memory of a device is made of, and slabs are multiples of."""
_STEP = 64 << 20
"""Bytes that are copied from the device at a time."""


class _Bytes:
    """A range of device memory for torch.as_tensor."""

    def __init__(self, address: int, size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size,), "typestr": "|u1", "data": (address, False), "version": 3,
        }  # fmt: skip


def is_zero(tensor: torch.Tensor) -> bool:
    """Whether all bytes of a contiguous tensor are; in steps, for a cache may fill the device."""
    steps = torch.split(tensor.view(-1).view(torch.uint8), _STEP)
    return not any(bool(step.any()) for step in steps)


@dataclass(frozen=True)
class Region:
    """A part of the arena, whose memory is mapped as far as it is used."""

    index: int
    name: str
    base: int

    @property
    def used(self) -> int:
        """Bytes from `base` that were ever given out."""
        return int(library().foundryc_used(self.index))

    def place(self, size: int) -> int:
        """The address of `size` more bytes; FoundryError where the device has no memory left."""
        address = c_uint64()
        check(library().foundryc_allocate(self.index, max(size, 1), ALIGNMENT, byref(address)))
        return address.value


class Arena:
    """The regions at `base + index * CAPACITY`; torch's own allocations come from `pool`.

    A process has one at most: the native core keeps it, since torch calls its functions.
    With `moved`, every region lies elsewhere, each by an amount of its own. FoundryError where the
    range is taken in this process.
    """

    def __init__(self, device: int = 0, base: int = BASE, moved: bool = False) -> None:
        self.capacity = CAPACITY + _MOVED_BY if moved else CAPACITY
        self.base = base = base + SPAN + _MOVED_FIRST if moved else base
        self.device = torch.device("cuda", device)
        self.regions = {
            name: Region(i, name, base + i * self.capacity) for i, name in enumerate(REGIONS)
        }
        check(library().foundryc_open_arena(base, self.capacity, device))
        try:
            # torch keeps only raw pointers to both: they live as long as the process's tensors.
            self._allocator = torch.cuda.memory.CUDAPluggableAllocator(
                str(PATH), "foundryc_malloc", "foundryc_free"
            )
            self.pool = self.new_pool()
        except BaseException:
            self.close()
            raise

    def new_pool(self) -> torch.cuda.MemPool:
        """A pool of its own for torch's allocations, in the same region as `pool`."""
        return torch.cuda.MemPool(self._allocator.allocator())  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Give memory and addresses back; no tensor or graph may use them any more."""
        library().foundryc_close_arena()

    @property
    def end(self) -> int:
        """The first address behind the arena."""
        return self.base + len(REGIONS) * self.capacity

    def bytes_at(self, address: int, size: int) -> torch.Tensor:
        """A uint8 view of arena memory."""
        if size == 0:
            return torch.empty(0, dtype=torch.uint8, device=self.device)
        return torch.as_tensor(_Bytes(address, size), device=self.device)

    def read(self, address: int, size: int) -> Iterator[memoryview]:
        """Copies of arena memory in steps."""
        for start in range(0, size, _STEP):
            step = self.bytes_at(address + start, min(_STEP, size - start))
            yield step.cpu().numpy().data

    def empty_like(self, tensor: torch.Tensor, region: str) -> torch.Tensor:
        """A contiguous tensor of the same shape and dtype in `region`, contents undefined."""
        size = prod(tensor.shape) * tensor.element_size()
        address = self.regions[region].place(size)
        return self.bytes_at(address, size).view(tensor.dtype).view(tensor.shape)

    def slabs(self, count: int, size: int, own: int) -> torch.Tensor:
        """Slabs of at least `size` bytes in the region for them, all of it, as one uint8 tensor.

        The first has memory, of zeros, and that of number `own`: as the first one's rank graphs are
        run again.
        """
        stride, region = -(-size // _PAGE) * _PAGE, self.regions["symmetric"].index
        address = c_uint64()
        check(library().foundryc_place_slabs(region, count, stride, own, byref(address)))
        for slab in {0, own}:
            self.bytes_at(address.value + slab * stride, stride).zero_()
        return self.bytes_at(address.value, count * stride)

    def locate(self, tensor: torch.Tensor) -> tuple[int, int] | None:
        """Region index and byte offset of a tensor's first element; None outside the arena."""
        address = tensor.data_ptr()
        if not self.base <= address < self.end:
            return None
        return divmod(address - self.base, self.capacity)

    def live_blocks(self, pool: torch.cuda.MemPool) -> list[tuple[int, int]]:
        """Address and size of a pool's allocations that are in use, by address."""
        snapshot: list[dict[str, Any]] = pool.snapshot()  # type: ignore[no-untyped-call]
        blocks = []
        for segment in snapshot:
            for block in segment["blocks"]:
                if block["state"] == "active_allocated":
                    blocks.append((int(block["address"]), int(block["size"])))
        return sorted(blocks)
