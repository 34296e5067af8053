"""The arena on the device: a reserved range of addresses with memory behind its regions."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_int, c_ubyte, c_uint, c_uint64, c_ushort, c_void_p
from dataclasses import dataclass, field
from functools import partial

from foundryrt.bundle.schema import Region, Tensor
from foundryrt.cuda.device import Device
from foundryrt.cuda.given import Given, Memory, Shared, check_memory
from foundryrt.errors import FoundryError, UsageError
from foundryrt.printable import quoted
from foundryrt.undo import Held, Undo

_PINNED, _DEVICE, _READ_WRITE = 1, 1, 3
_FILE_DESCRIPTOR = 1  # CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
_BASE_ALIGNMENT = 32 << 20
"""Bytes; what drivers round the start of a large range up to (580.159, H200)."""
_FOREIGN_ALIGNMENT = 4096
"""Bytes; a foreign region begins where it did modulo this, which is more than code relies on."""
_libc = ctypes.CDLL(None)


class _Location(ctypes.Structure):
    _fields_ = (("type", c_int), ("id", c_int))


class _Flags(ctypes.Structure):
    _fields_ = (
        ("compression", c_ubyte), ("gpu_direct_rdma", c_ubyte), ("usage", c_ushort),
        ("reserved", c_ubyte * 4),
    )  # fmt: skip


class _Properties(ctypes.Structure):
    """CUmemAllocationProp."""

    _fields_ = (
        ("type", c_int), ("handle_types", c_int), ("location", _Location),
        ("security", c_void_p), ("flags", _Flags),
    )  # fmt: skip


class _Access(ctypes.Structure):
    """CUmemAccessDesc."""

    _fields_ = (("location", _Location), ("flags", c_int))


@dataclass(frozen=True)
class Placing:
    """Where the arena may lie: where it was alone, or, if `movable`, where addresses are free.

    `base` is the address that its first region must have; None for the recorded one if it is free.
    `given` has, by region, memory that is somebody else's.
    """

    movable: bool = False
    base: int | None = None
    given: Given = field(default_factory=dict)


class Arena:
    """A bundle's regions on a device, placed and mapped; `undo` frees them.

    The parts of the arena keep their distances. Foreign regions lie together, anywhere. With
    `exportable`, other processes can be given the memory of the arena's parts. UsageError where
    the arena cannot be moved to the base asked for; FoundryError where addresses are taken in this
    process or memory does not suffice.
    """

    def __init__(
        self,
        device: Device,
        regions: tuple[Region, ...],
        undo: Undo,
        exportable: bool = False,
        placing: Placing = Placing(),
    ) -> None:
        self._cuda = device.cuda
        self._regions = regions
        self._undo = undo
        self._exportable = exportable
        self._bases = {region.name: region.base for region in regions}
        self._memory: dict[str, int] = {}
        self._exported: dict[str, int] = {}
        location = _Location(_DEVICE, device.ordinal)
        handle_types = _FILE_DESCRIPTOR if exportable else 0
        self._properties = _Properties(_PINNED, handle_types, location)
        self._access = _Access(location, _READ_WRITE)
        mapped = [region for region in regions if region.size]
        if not mapped:
            return
        self._granularity = self._cuda.ask(
            "cuMemGetAllocationGranularity", byref(self._properties), c_uint(0), kind=c_uint64
        )
        self._given = placing.given
        rest = [region for region in mapped if not self._take_given(region, placing.movable)]
        self._place_arena([region for region in rest if not region.owner], placing)
        self._place_foreign([region for region in rest if region.owner])

    def address(self, tensor: Tensor) -> int:
        """Where a tensor of the bundle begins."""
        return self.base(self._regions[tensor.region]) + tensor.offset

    def base(self, region: Region) -> int:
        """Where a region was placed."""
        return self._bases[region.name]

    def mapped(self, name: str) -> int:
        """Where memory of this arena's own is mapped for region `name`; UsageError for none."""
        if name not in self._memory:
            raise UsageError(f"no region {name!r} has memory here; there is {list(self._memory)}")
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

    def export(self, name: str) -> int:
        """A file descriptor with which another process can map the memory of region `name`.

        The arena closes it; sending it over a Unix socket makes a copy. UsageError where there is
        no such region or the arena was not made exportable.
        """
        if name not in self._memory:
            raise UsageError(f"no region {name!r} has memory here; there is {list(self._memory)}")
        if not self._exportable:
            raise UsageError(f"region {name}: the arena was not made for other processes to map")
        if name not in self._exported:
            descriptor, held = c_int(-1), Held()
            self._undo.push(partial(held.release, _libc.close, descriptor))
            self._cuda.take(
                held, "cuMemExportToShareableHandle", byref(descriptor), self._memory[name],
                _FILE_DESCRIPTOR, 0, about=f"region {name}",
            )  # fmt: skip
            self._exported[name] = descriptor.value
        return self._exported[name]

    def _rounded(self, size: int) -> int:
        return -(-size // self._granularity) * self._granularity

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
        got = self._reserve(base, self._rounded(end - start))
        if got != base and (placing.base is not None or not movable):
            raise FoundryError(
                f"the addresses {base:#x} to {base + end - start:#x} are taken in this process"
                f" (the driver offered {got:#x}); open the bundle before other users of the"
                " GPU, or at another base"
            )
        for region in regions:
            self._bases[region.name] = region.base - start + got
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
        base = self._reserve(0, self._rounded(end))
        self._map("foreign", base, end)
        self._bases |= {name: base + offset for name, offset in places.items()}

    def _reserve(self, base: int, length: int) -> int:
        got = c_uint64()
        self._cuda.hold(
            self._undo, "cuMemAddressReserve", (byref(got), length, 0, base, 0),
            "cuMemAddressFree", (got, length),
        )  # fmt: skip
        return got.value

    def _map(self, name: str, base: int, size: int) -> None:
        about, size = f"region {name}", self._rounded(size)
        shared = self._given.get(name)
        if isinstance(shared, Shared):
            memory = self._cuda.make(
                self._undo, "cuMemRetainAllocationHandle", shared.address, about=about
            )
        else:
            memory = self._cuda.make(
                self._undo, "cuMemCreate", size, byref(self._properties), 0,
                about=f"{size} bytes for {about}",
            )  # fmt: skip
        self._cuda.hold(
            self._undo, "cuMemMap", (base, size, 0, memory, 0), "cuMemUnmap", (base, size), about
        )
        self._cuda("cuMemSetAccess", base, size, byref(self._access), 1, about=about)
        self._memory[name] = memory
