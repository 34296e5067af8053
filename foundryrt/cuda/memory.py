"""Memory of the device that is mapped at an address: made here, exported, or imported."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_int, c_ubyte, c_uint, c_uint64, c_ushort, c_void_p
from functools import partial

from foundryrt.cuda.device import Device
from foundryrt.errors import FoundryError
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


class DeviceMemory:
    """Makes and maps memory on a device; with `exportable`, for other processes too."""

    def __init__(self, device: Device, exportable: bool = False) -> None:
        self._device = device
        self._cuda = device.cuda
        location = _Location(_DEVICE, device.ordinal)
        self._properties = _Properties(_PINNED, _FILE_DESCRIPTOR if exportable else 0, location)
        self._access = _Access(location, _READ_WRITE)
        self.granularity = self._cuda.ask(
            "cuMemGetAllocationGranularity", byref(self._properties), c_uint(0), kind=c_uint64
        )
        """Bytes; addresses and sizes are multiples of it."""

    def rounded(self, size: int) -> int:
        """The size of the memory that holds `size` bytes."""
        return -(-size // self.granularity) * self.granularity

    def make(self, undo: Undo, size: int, about: str) -> int:
        """The handle of new memory; what it holds is undefined."""
        return self._cuda.make(
            undo, "cuMemCreate", self.rounded(size), byref(self._properties), 0,
            about=f"{size} bytes for {about}",
        )  # fmt: skip

    def retain(self, undo: Undo, address: int, about: str) -> int:
        """A handle of the memory that is mapped at an address of this process."""
        return self._cuda.make(undo, "cuMemRetainAllocationHandle", address, about=about)

    def map(self, undo: Undo, base: int, size: int, memory: int, about: str) -> None:
        """Have the memory of a handle at `base`, for reading and writing."""
        size = self.rounded(size)
        self._cuda.hold(
            undo, "cuMemMap", (base, size, 0, memory, 0), "cuMemUnmap", (base, size), about
        )
        self._cuda("cuMemSetAccess", base, size, byref(self._access), 1, about=about)

    def export(self, undo: Undo, memory: int, about: str) -> int:
        """A file descriptor with which another process can map exportable memory."""
        descriptor, held = c_int(-1), Held()
        undo.push(partial(held.release, _libc.close, descriptor))
        self._cuda.take(
            held, "cuMemExportToShareableHandle", byref(descriptor), memory, _FILE_DESCRIPTOR, 0,
            about=about,
        )  # fmt: skip
        return descriptor.value

    def take_in(self, undo: Undo, descriptor: int, about: str) -> int:
        """A handle of another process's memory; FoundryError where this GPU cannot reach it."""
        memory = self._cuda.make(
            undo, "cuMemImportFromShareableHandle", descriptor, _FILE_DESCRIPTOR, about=about
        )
        found = _Properties()
        self._cuda("cuMemGetAllocationPropertiesFromHandle", byref(found), memory, about=about)
        own, other = self._device.ordinal, found.location.id
        if other != own and not self._cuda.ask("cuDeviceCanAccessPeer", own, other):
            raise FoundryError(
                f"{about} lies on {self._named(other)}, which {self._named(own)} cannot reach: use"
                " GPUs with peer access to each other (nvidia-smi topo -p2p w lists them)"
            )
        return memory

    def _named(self, ordinal: int) -> str:
        name = ctypes.create_string_buffer(128)
        self._cuda("cuDeviceGetName", name, len(name), ordinal)
        return f"GPU {ordinal} ({name.value.decode(errors='replace')})"
