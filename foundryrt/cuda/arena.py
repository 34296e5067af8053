"""The arena on the device: a reserved range of addresses with memory behind its regions."""

from __future__ import annotations

from ctypes import byref, c_uint64
from dataclasses import dataclass, field

from foundryrt.bundle.ranks import ONE_PROCESS
from foundryrt.bundle.schema import Region, Tensor
from foundryrt.cuda.device import Device
from foundryrt.cuda.given import Given, Memory, Shared, check_memory
from foundryrt.cuda.memory import DeviceMemory
from foundryrt.cuda.slabs import Slabs
from foundryrt.errors import FoundryError, UsageError
from foundryrt.printable import quoted
from foundryrt.undo import Undo

_BASE_ALIGNMENT = 32 << 20
"""Bytes; what drivers round the start of a large range up to (580.159, H200)."""
_FOREIGN_ALIGNMENT = 4096
"""Bytes; a foreign region begins where it did modulo this, which is more than code relies on."""


@dataclass(frozen=True)
class Placing:
    """Where the arena may lie: where it was alone, or, if `movable`, where addresses are free.

    `base` is the address that its first region must have; None for the recorded one if it is free.
    `given` has, by region, memory that is somebody else's. Foreign regions that are `alone` have
    memory of their own, so that another session may share it.
    """

    movable: bool = False
    base: int | None = None
    given: Given = field(default_factory=dict)
    alone: frozenset[str] = frozenset()


class Arena:
    """A bundle's regions on a device, placed and mapped; `undo` frees them.

    The parts of the arena keep their distances. Foreign regions lie anywhere, most together. Of
    ranks' slabs, that of `rank` has memory. UsageError where the arena cannot be moved to the base
    asked for; FoundryError where addresses are taken in this process or memory does not suffice.
    """

    def __init__(
        self,
        device: Device,
        regions: tuple[Region, ...],
        undo: Undo,
        placing: Placing = Placing(),
        rank: int = 0,
    ) -> None:
        self._device = device
        self._cuda = device.cuda
        self._regions = regions
        self._undo = undo
        self._rank = rank
        self._slabs: Slabs | None = None
        self._bases = {region.name: region.base for region in regions}
        self._memory: set[str] = set()
        mapped = [region for region in regions if region.size]
        if not mapped:
            return
        self._device_memory = DeviceMemory(device)
        self._given = placing.given
        rest = [region for region in mapped if not self._take_given(region, placing.movable)]
        self._place_arena([region for region in rest if not region.owner], placing)
        foreign = [region for region in rest if region.owner]
        self._place_foreign([region for region in foreign if region.name not in placing.alone])
        for region in foreign:
            if region.name in placing.alone:
                self._place_alone(region)

    def address(self, tensor: Tensor) -> int:
        """Where a tensor of the bundle begins."""
        return self.base(self._regions[tensor.region]) + tensor.offset

    def base(self, region: Region) -> int:
        """Where a region was placed."""
        return self._bases[region.name]

    def memory(self, region: Region) -> tuple[int, int]:
        """Address and bytes of the memory behind a region: of slabs, of the own one."""
        if self._slabs is not None and region.peer_stride:
            return self._slabs.own, region.peer_stride
        return self.base(region), region.size

    @property
    def slabs(self) -> Slabs:
        """The ranks' slabs; UsageError where the bundle is for one process."""
        if self._slabs is None:
            raise UsageError(ONE_PROCESS)
        return self._slabs

    def mapped(self, name: str) -> int:
        """Where memory of this arena's own is mapped for region `name`; UsageError for none."""
        if name not in self._memory:
            raise UsageError(f"no region {name!r} has memory here; there is {sorted(self._memory)}")
        return self._bases[name]

    @property
    def deltas(self) -> list[int]:
        """How far every region lies from where it was at capture, modulo 2^64."""
        return [(self.base(region) - region.base) % (1 << 64) for region in self._regions]

    def at(self, address: int, region: int) -> int:
        """Where what `address` was at capture is now; FoundryError unless it is in the region."""
        place = self._regions[region]
        if not 0 <= address - place.base <= place.size:
            raise FoundryError(
                f"region {place.name}: {address:#x} should be an address in it, and is none"
            )
        return address - place.base + self.base(place)

    def _take_given(self, region: Region, movable: bool) -> bool:
        """Whether the region lies in memory that was given: then it lies there."""
        memory = self._given.get(region.name)
        if not isinstance(memory, Memory):
            return False
        if memory.address != region.base and not (movable or region.owner):
            raise UsageError(
                f"region {quoted(region.name)} lies at {region.base:#x} and cannot be moved to"
                f" {memory.address:#x}, where memory was given: the bundle was captured to stay"
            )
        check_memory(region, memory)
        self._bases[region.name] = memory.address
        return True

    def _place_arena(self, regions: list[Region], placing: Placing) -> None:
        """One range of addresses for the parts of the arena, with memory behind each."""
        if not regions:
            return
        start = min(region.base for region in regions)
        end = max(region.base + region.size for region in regions)
        base = start if placing.base is None else placing.base
        movable = placing.movable
        if base != start and not movable:
            raise UsageError(
                f"the bundle lies at {start:#x} and cannot be moved to {base:#x}: it was captured"
                " to stay there"
            )
        if base % _BASE_ALIGNMENT and base != start:
            raise UsageError(f"base {base:#x} is no multiple of {_BASE_ALIGNMENT:#x}")
        got = self._reserve(base, self._device_memory.rounded(end - start))
        if got != base and (placing.base is not None or not movable):
            remedy = "open the bundle before other users of the GPU, or at another base"
            if not movable:
                remedy = "the bundle was captured to stay there: close what uses them first"
            raise FoundryError(
                f"the addresses {base:#x} to {base + end - start:#x} are taken in this process"
                f" (the driver offered {got:#x}); {remedy}"
            )
        for region in regions:
            self._bases[region.name] = region.base - start + got
            if region.peer_stride:
                self._slabs = Slabs(self._device, region, self.base(region), self._rank, self._undo)
            else:
                self._map(region.name, self.base(region), region.size)

    def _place_foreign(self, regions: list[Region]) -> None:
        """One range with memory: most are small, and a page of the device is large."""
        end = 0
        places: dict[str, int] = {}
        for region in regions:
            places[region.name] = end + (region.base - end) % _FOREIGN_ALIGNMENT
            end = places[region.name] + region.size
        if not regions:
            return
        base = self._reserve(0, self._device_memory.rounded(end))
        self._map("foreign", base, end)
        self._bases |= {name: base + offset for name, offset in places.items()}

    def _place_alone(self, region: Region) -> None:
        """A range of its own: the beginning of the memory that is shared is that of the region."""
        within = region.base % _FOREIGN_ALIGNMENT
        base = self._reserve(0, self._device_memory.rounded(within + region.size))
        self._map(region.name, base, within + region.size)
        self._bases[region.name] = base + within

    def _reserve(self, base: int, length: int) -> int:
        got = c_uint64()
        self._cuda.hold(
            self._undo, "cuMemAddressReserve", (byref(got), length, 0, base, 0),
            "cuMemAddressFree", (got, length),
        )  # fmt: skip
        return got.value

    def _map(self, name: str, base: int, size: int) -> None:
        about = f"region {name}"
        shared = self._given.get(name)
        if isinstance(shared, Shared):
            memory = self._device_memory.retain(self._undo, shared.address, about)
        else:
            memory = self._device_memory.make(self._undo, size, about)
        self._device_memory.map(self._undo, base, size, memory, about)
        self._memory.add(name)
