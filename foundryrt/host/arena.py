"""The arena on the host: one anonymous mapping that every tensor of a bundle lies in."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import weakref
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foundryrt.bundle.check import ADDRESS_LIMIT
from foundryrt.bundle.schema import ALIGNMENT, DTYPES, Manifest, Region
from foundryrt.convert import storage_dtype
from foundryrt.errors import FoundryError

NUMPY_DTYPES: dict[str, np.dtype[Any]] = {name: storage_dtype(name) for name in DTYPES}
"""numpy's dtype for each of a bundle's; types that numpy lacks are seen as their bits."""

MAX_ELEMENTS = 1 << 40
"""A tensor of stride 0 can claim any number of elements without being larger than the arena."""

_NO_RESERVE = 0x4000
"""MAP_NORESERVE of Linux, which Python's mmap names from 3.13."""
_FIXED = 0x10
"""MAP_FIXED, which Python's mmap does not name."""
_MAY_MOVE_FIXED = 3
"""MREMAP_MAYMOVE and MREMAP_FIXED."""
_STEP = 1 << 20
"""Bytes that are looked at, and copied, at a time."""
_FAILED = ctypes.c_void_p(-1).value
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = _libc.mremap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
)  # fmt: skip
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.mremap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p,
)  # fmt: skip


def extent(sizes: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> int:
    """Bytes from the first element's start to the last one's end; 0 without elements."""
    if 0 in sizes:
        return 0
    last = sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    return (last + 1) * itemsize


def arena_bytes(manifest: Manifest) -> int:
    """Size of a host bundle's arena."""
    return max((region.base + region.size for region in manifest.regions), default=0)


class Arena:
    """`size` bytes of zeros, page-aligned; pages that nobody writes cost no memory.

    With `reserve` the size may be more than the machine's memory.
    """

    def __init__(self, size: int, reserve: bool = False) -> None:
        length = max(-(-size // ALIGNMENT) * ALIGNMENT, ALIGNMENT)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (_NO_RESERVE if reserve else 0)
        try:
            self._map = mmap.mmap(-1, length, flags)
        except (OSError, OverflowError, ValueError) as error:
            raise FoundryError(
                f"the bundle needs {size} bytes of arena, which this machine does not give"
                f" ({error}); free memory or use a smaller bundle"
            ) from error
        self.bytes: NDArray[np.uint8] = np.frombuffer(self._map, dtype=np.uint8)
        """The whole arena."""
        self._shared: set[str] = set()
        """Regions in pages that other arenas can map."""
        self._descriptors: list[int] = []
        weakref.finalize(self, _close, self._descriptors)

    def forget(self, start: int, length: int) -> None:
        """Give whole pages back; they are zeros afterwards."""
        self._map.madvise(mmap.MADV_DONTNEED, start, length)

    def share(self, region: Region, other: Arena, others: Region) -> None:
        """Have the region be the memory of a region of the same size of `other`.

        The memory stays as long as one of both arenas does. Nobody may write to it meanwhile.
        """
        if mmap.PAGESIZE > ALIGNMENT:
            raise FoundryError(
                f"region {region.name} cannot be shared: pages of {mmap.PAGESIZE} bytes are larger"
                f" than a region's alignment of {ALIGNMENT}"
            )
        place, length = self._pages(region)
        other._make_sharable(others)
        source, _ = other._pages(others)
        # Nothing is moved: of a length of 0 bytes the pages are mapped once more.
        _require(region, _libc.mremap(source, 0, length, _MAY_MOVE_FIXED, place))
        self._shared.add(region.name)

    def _make_sharable(self, region: Region) -> None:
        """Put what a region holds into pages that can be mapped twice, at the same address.

        Not from the start: a forked child is to have its own.
        """
        if region.name in self._shared:
            return
        place, length = self._pages(region)
        access, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
        copy = _libc.mmap(None, length, access, flags, -1, 0)
        _require(region, copy)
        held = self.bytes[region.base : region.base + length]
        copied = np.frombuffer(memoryview((ctypes.c_ubyte * length).from_address(copy)), np.uint8)
        for start in range(0, length, _STEP):
            part = slice(start, start + _STEP)
            if held[part].any():  # pages that nobody wrote go on costing nothing
                copied[part] = held[part]
        # In one step, so that others may read meanwhile.
        try:
            _require(region, _libc.mremap(copy, length, length, _MAY_MOVE_FIXED, place))
        except FoundryError:
            _libc.munmap(copy, length)
            raise
        self._shared.add(region.name)

    def own_slab(self, region: Region) -> int:
        """A descriptor of `region.peer_stride` bytes of zeros, for this arena and others to map.

        The arena closes it; sending it over a Unix socket makes a copy.
        """
        try:
            descriptor = os.memfd_create("foundry slab", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            self._descriptors.append(descriptor)
            os.ftruncate(descriptor, region.peer_stride)
            # Were it cut off, those that use it would end by SIGBUS.
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        except OSError as error:
            raise FoundryError(
                f"region {region.name}: {region.peer_stride} bytes cannot be shared with other"
                f" processes ({error.strerror}); free memory or use a smaller bundle"
            ) from error
        return descriptor

    def map_slab(self, region: Region, rank: int, descriptor: int) -> None:
        """Have a rank's slab be the memory of `descriptor`, which the caller may close then.

        FoundryError where that is no slab of such a bundle.
        """
        stride = region.peer_stride
        try:
            size, seals = os.fstat(descriptor).st_size, fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        except OSError:
            size, seals = -1, 0
        if size != stride or not seals & fcntl.F_SEAL_SHRINK:
            raise FoundryError(
                f"region {region.name}: what came as the slab of rank {rank} is none of"
                f" {stride} bytes; start all ranks with one bundle and one version of foundryrt"
            )
        place = self.bytes.ctypes.data + region.base + rank * stride
        access, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | _FIXED
        _require(region, _libc.mmap(place, stride, access, flags, descriptor, 0))

    def close(self) -> None:
        """Close the descriptors; the memory stays as long as it is used."""
        _close(self._descriptors)

    def _pages(self, region: Region) -> tuple[int, int]:
        """Address and length of the region's pages; no other region begins in them."""
        return self.bytes.ctypes.data + region.base, -(-region.size // ALIGNMENT) * ALIGNMENT

    def check(
        self, address: int, sizes: tuple[int, ...], strides: tuple[int, ...], dtype: str
    ) -> None:
        """Raise FoundryError unless such a tensor lies in the arena, aligned to its elements."""
        if dtype not in NUMPY_DTYPES:
            raise FoundryError(f"damaged bundle: unknown dtype {dtype!r}")
        if len(sizes) != len(strides) or not all(
            0 <= n < ADDRESS_LIMIT for n in (*sizes, *strides)
        ):
            raise FoundryError(
                f"damaged bundle: tensor at {address} has sizes {sizes} and strides {strides}"
            )
        if prod(sizes) > MAX_ELEMENTS:
            raise FoundryError(f"damaged bundle: a tensor of {prod(sizes)} elements")
        itemsize = NUMPY_DTYPES[dtype].itemsize
        end = address + extent(sizes, strides, itemsize)
        if end > self.bytes.size or address % itemsize:
            raise FoundryError(
                f"damaged bundle: a {dtype} tensor at [{address}, {end}) does not fit the arena"
                f" of {self.bytes.size} bytes"
            )

    def array(
        self, address: int, sizes: tuple[int, ...], strides: tuple[int, ...], dtype: str
    ) -> NDArray[Any]:
        """A strided numpy view of the arena; strides in elements."""
        self.check(address, sizes, strides, dtype)
        numpy_dtype = NUMPY_DTYPES[dtype]
        if 0 in sizes:
            return np.empty(sizes, dtype=numpy_dtype)
        return np.ndarray(
            sizes,
            numpy_dtype,
            buffer=self.bytes.data,
            offset=address,
            strides=tuple(step * numpy_dtype.itemsize for step in strides),
        )


def _close(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())


def _require(region: Region, mapped: int) -> None:
    if mapped == _FAILED:
        raise FoundryError(
            f"region {region.name}: {region.size} bytes cannot be mapped"
            f" ({os.strerror(ctypes.get_errno())}); free memory or use a smaller bundle"
        )
