"""The ranks' slabs on a device: the own one, and those of the others, mapped from them."""

from __future__ import annotations

from collections.abc import Mapping

from foundryrt.bundle.schema import Region
from foundryrt.cuda.device import Device
from foundryrt.cuda.memory import DeviceMemory
from foundryrt.errors import FoundryError
from foundryrt.undo import Undo


class Slabs:
    """The region of the slabs at `base`, with memory for that of `rank`; `undo` frees all.

    FoundryError where the device's memory comes in larger pieces than a slab.
    """

    def __init__(self, device: Device, region: Region, base: int, rank: int, undo: Undo) -> None:
        self._region = region
        self._base = base
        self._undo = undo
        self._memory = DeviceMemory(device, exportable=True)
        if region.peer_stride % self._memory.granularity:
            raise FoundryError(
                f"a rank's slab of {region.peer_stride} bytes is no multiple of"
                f" {self._memory.granularity}, as this GPU needs; capture the bundle on such a GPU"
            )
        about = f"region {region.name}"
        self.own = self._place(rank)
        """Where the own slab begins."""
        self._handle = self._memory.make(undo, region.peer_stride, about)
        self._memory.map(undo, self.own, region.peer_stride, self._handle, about)
        self._descriptor: int | None = None

    def _place(self, rank: int) -> int:
        return self._base + rank * self._region.peer_stride

    def export(self) -> int:
        """A file descriptor of the own slab, which the arena closes."""
        if self._descriptor is None:
            self._descriptor = self._memory.export(
                self._undo, self._handle, f"region {self._region.name}"
            )
        return self._descriptor

    def join(self, slabs: Mapping[int, int]) -> None:
        """Map the others' slabs, given by rank; all or, where a call fails, none."""
        undo = self._undo.part()
        try:
            for rank, descriptor in slabs.items():
                about = f"the slab of rank {rank}"
                memory = self._memory.take_in(undo, descriptor, about)
                self._memory.map(undo, self._place(rank), self._region.peer_stride, memory, about)
        except BaseException:
            undo.rollback()
            raise
