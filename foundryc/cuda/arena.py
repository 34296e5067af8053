"""Device memory at addresses that are the same in every capture."""

from __future__ import annotations

from ctypes import byref, c_uint64
from math import prod
from typing import Any

import torch

from foundryc.native import PATH, check, library
from foundryrt.bundle.schema import REGIONS

BASE = 0x600000000000
CAPACITY = 256 << 30
"""Addresses a region may take: more than any device has memory."""
ALIGNMENT = 256


class _Bytes:
    """A range of device memory for torch.as_tensor."""

    def __init__(self, address: int, size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size,), "typestr": "|u1", "data": (address, False), "version": 3,
        }  # fmt: skip


class Arena:
    """The regions at `base + index * CAPACITY`; torch's own allocations come from `pool`.

    FoundryError where the range is taken in this process.
    """

    def __init__(self, device: int = 0, base: int = BASE) -> None:
        self.base = base
        self.device = torch.device("cuda", device)
        check(library().foundryc_open_arena(base, CAPACITY, device))
        # torch keeps only raw pointers to both: they must live as long as the process's tensors.
        self._allocator = torch.cuda.memory.CUDAPluggableAllocator(
            str(PATH), "foundryc_malloc", "foundryc_free"
        )
        self.pool = torch.cuda.MemPool(self._allocator.allocator())  # type: ignore[no-untyped-call]

    @property
    def end(self) -> int:
        """The first address behind the arena."""
        return self.base + len(REGIONS) * CAPACITY

    def region_base(self, region: str) -> int:
        """A region's first address."""
        return self.base + REGIONS.index(region) * CAPACITY

    def used(self, region: str) -> int:
        """Bytes of a region that were ever given out."""
        return int(library().foundryc_used(REGIONS.index(region)))

    def bytes_at(self, address: int, size: int) -> torch.Tensor:
        """A uint8 view of arena memory."""
        if size == 0:
            return torch.empty(0, dtype=torch.uint8, device=self.device)
        return torch.as_tensor(_Bytes(address, size), device=self.device)

    def empty_like(self, tensor: torch.Tensor, region: str) -> torch.Tensor:
        """A contiguous tensor of the same shape and dtype in `region`, contents undefined."""
        size = prod(tensor.shape) * tensor.element_size()
        address = c_uint64()
        check(
            library().foundryc_allocate(
                REGIONS.index(region), max(size, 1), ALIGNMENT, byref(address)
            )
        )
        return self.bytes_at(address.value, size).view(tensor.dtype).view(tensor.shape)

    def locate(self, tensor: torch.Tensor) -> tuple[int, int] | None:
        """Region index and byte offset of a tensor's first element; None outside the arena."""
        address = tensor.data_ptr()
        if not self.base <= address < self.end:
            return None
        return divmod(address - self.base, CAPACITY)

    def live_blocks(self) -> list[tuple[int, int]]:
        """Address and size of the pool's allocations that are in use, by address."""
        snapshot: list[dict[str, Any]] = self.pool.snapshot()  # type: ignore[no-untyped-call]
        blocks = []
        for segment in snapshot:
            for block in segment["blocks"]:
                if block["state"] == "active_allocated":
                    blocks.append((int(block["address"]), int(block["size"])))
        return sorted(blocks)
