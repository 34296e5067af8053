"""The arena on the device: a reserved range of addresses with memory behind its regions."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_int, c_ubyte, c_uint, c_uint64, c_ushort, c_void_p
from functools import partial

from foundryrt.bundle.schema import Region, Tensor
from foundryrt.cuda.device import Device
from foundryrt.errors import FoundryError, UsageError
from foundryrt.undo import Held, Undo

_PINNED, _DEVICE, _READ_WRITE = 1, 1, 3
_FILE_DESCRIPTOR = 1  # CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
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


class Arena:
    """A bundle's regions on a device, placed and mapped; `undo` frees them.

    With `exportable`, other processes can be given their memory. FoundryError where the addresses
    are taken in this process or memory does not suffice.
    """

    def __init__(
        self, device: Device, regions: tuple[Region, ...], undo: Undo, exportable: bool = False
    ) -> None:
        self._cuda = device.cuda
        self._regions = regions
        self._undo = undo
        self._exportable = exportable
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
        base = min(region.base for region in mapped)
        end = max(region.base + self._rounded(region.size) for region in mapped)
        self._reserve(base, end - base)
        for region in mapped:
            self._map(region)

    def address(self, tensor: Tensor) -> int:
        """Where a tensor of the bundle begins."""
        return self.base(self._regions[tensor.region]) + tensor.offset

    def base(self, region: Region) -> int:
        """Where a region was placed: where it was at capture."""
        return region.base

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

    def _reserve(self, base: int, length: int) -> None:
        got = c_uint64()
        self._cuda.hold(
            self._undo, "cuMemAddressReserve", (byref(got), length, 0, base, 0),
            "cuMemAddressFree", (got, length),
        )  # fmt: skip
        if got.value != base:
            raise FoundryError(
                f"the addresses {base:#x} to {base + length:#x} are taken in this process"
                f" (the driver offered {got.value:#x}); open the bundle before other users of the"
                " GPU, or capture it at another base"
            )

    def _map(self, region: Region) -> None:
        base, size, about = self.base(region), self._rounded(region.size), f"region {region.name}"
        memory = self._cuda.make(
            self._undo, "cuMemCreate", size, byref(self._properties), 0,
            about=f"{size} bytes for {about}",
        )  # fmt: skip
        self._cuda.hold(
            self._undo, "cuMemMap", (base, size, 0, memory, 0), "cuMemUnmap", (base, size), about
        )
        self._cuda("cuMemSetAccess", base, size, byref(self._access), 1, about=about)
        self._memory[region.name] = memory
