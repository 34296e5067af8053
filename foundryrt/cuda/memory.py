"""The arena on the device: a reserved range of addresses with memory behind its regions."""

from __future__ import annotations

import ctypes
from contextlib import ExitStack
from ctypes import c_int, c_ubyte, c_uint, c_uint64, c_ushort, c_void_p

from foundryrt.bundle.schema import Region
from foundryrt.cuda.driver import Driver
from foundryrt.errors import FoundryError

_PINNED, _DEVICE, _READ_WRITE = 1, 1, 3


class _Location(ctypes.Structure):
    _fields_ = (("type", c_int), ("id", c_int))


class _Flags(ctypes.Structure):
    _fields_ = (
        ("compression", c_ubyte), ("gpu_direct_rdma", c_ubyte), ("usage", c_ushort),
        ("reserved", c_ubyte * 4),
    )  # fmt: skip


class _Placement(ctypes.Structure):
    """CUmemAllocationProp."""

    _fields_ = (
        ("type", c_int), ("handle_types", c_int), ("location", _Location),
        ("security", c_void_p), ("flags", _Flags),
    )  # fmt: skip


class _Access(ctypes.Structure):
    """CUmemAccessDesc."""

    _fields_ = (("location", _Location), ("flags", c_int))


def map_regions(cuda: Driver, device: int, regions: tuple[Region, ...], undo: ExitStack) -> None:
    """Reserve the regions' whole range and map each; every step is pushed on `undo`.

    FoundryError where the range is taken in this process or memory does not suffice.
    """
    regions = tuple(region for region in regions if region.size)
    if not regions:
        return
    place = _Placement(_PINNED, 0, _Location(_DEVICE, device))
    granularity = cuda.ask(
        "cuMemGetAllocationGranularity", ctypes.byref(place), c_uint(0), kind=c_uint64
    )

    def rounded(size: int) -> int:
        return -(-size // granularity) * granularity

    base = min(region.base for region in regions)
    length = max(region.base + rounded(region.size) for region in regions) - base
    got = cuda.ask("cuMemAddressReserve", length, 0, base, 0, kind=c_uint64)
    undo.callback(cuda, "cuMemAddressFree", got, length)
    if got != base:
        raise FoundryError(
            f"the addresses {base:#x} to {base + length:#x} are taken in this process"
            f" (the driver offered {got:#x}); open the bundle before other users of the GPU, or"
            " capture it at another base"
        )
    access = _Access(place.location, _READ_WRITE)
    for region in regions:
        size = rounded(region.size)
        handle = c_uint64()
        cuda("cuMemCreate", ctypes.byref(handle), size, ctypes.byref(place), 0,
             about=f"{size} bytes for region {region.name}")  # fmt: skip
        undo.callback(cuda, "cuMemRelease", handle.value)
        cuda("cuMemMap", region.base, size, 0, handle.value, 0, about=f"region {region.name}")
        undo.callback(cuda, "cuMemUnmap", region.base, size)
        cuda("cuMemSetAccess", region.base, size, ctypes.byref(access), 1,
             about=f"region {region.name}")  # fmt: skip
