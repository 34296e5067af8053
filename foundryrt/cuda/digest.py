"""BLAKE3 digests of device memory, taken by the device: it reads many times faster than a CPU.

What is checked is what arrived, so the copy itself is checked too. The kernel comes with the bundle
(foundryc/cuda/digest.cu).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from ctypes import byref, c_uint64, c_void_p

from foundryrt.cuda.device import Device

CHUNKS, TREE = "foundry_blake3_chunks", "foundry_blake3_tree"
ALIGNMENT = 16
_CHUNK = 1024
_BATCH = 256 << 10  # chunks whose values are kept at once, 32 bytes each
_THREADS = 256

Range = tuple[int, int]
"""Device address, a multiple of ALIGNMENT, and bytes, at least one."""


def digests(device: Device, stream: int, cubin: bytes, ranges: Sequence[Range]) -> list[bytes]:
    """The digest of each range once everything queued on `stream` has happened.

    FoundryError for a driver error; what was made on the way is freed in any case.
    """
    device.enter()
    cuda = device.cuda
    counts = [-(-length // _CHUNK) for _, length in ranges]
    with ExitStack() as undo:
        library = cuda.ask(
            "cuLibraryLoadData", cubin, None, None, 0, None, None, 0, kind=c_void_p
        )  # fmt: skip
        undo.callback(cuda, "cuLibraryUnload", library)
        chunks, tree = (
            cuda.ask("cuLibraryGetKernel", library, name.encode(), kind=c_void_p)
            for name in (CHUNKS, TREE)
        )

        def allocate(size: int) -> int:
            address = cuda.ask("cuMemAlloc_v2", size, kind=c_uint64)
            undo.callback(cuda, "cuMemFree_v2", address)
            return address

        table, first = [], 0
        for (address, length), count in zip(ranges, counts, strict=True):
            table += [address, length, first]
            first += count
        host = (c_uint64 * len(table))(*table)
        found = ctypes.create_string_buffer(32 * len(ranges))
        # Kernels and copies still under way use what is freed next.
        with ExitStack() as queued:
            largest = max(sum(counts[start:end]) for start, end in _batches(counts))
            rows, out = allocate(ctypes.sizeof(host)), allocate(len(found))
            values, spare = allocate(32 * largest), allocate(32 * largest)
            queued.callback(cuda, "cuStreamSynchronize", stream)
            cuda("cuMemcpyHtoDAsync_v2", rows, host, ctypes.sizeof(host), stream)
            for start, end in _batches(counts):
                here, there = rows + 24 * start, out + 32 * start
                width = -(-max(counts[start:end]) // _THREADS)
                _launch(device, chunks, (width, end - start), stream, here, values)
                _launch(device, tree, (end - start, 1), stream, here, values, spare, there)
            cuda("cuMemcpyDtoHAsync_v2", found, out, len(found), stream)
    return [found.raw[32 * i : 32 * i + 32] for i in range(len(ranges))]


def _batches(counts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Runs of ranges of at most _BATCH chunks together, or of one larger range."""
    start = total = 0
    for index, count in enumerate(counts):
        if index > start and total + count > _BATCH:
            yield start, index
            start, total = index, 0
        total += count
    if counts:
        yield start, len(counts)


def _launch(
    device: Device, kernel: int, grid: tuple[int, int], stream: int, *arguments: int
) -> None:
    values = [c_uint64(value) for value in arguments]
    pointers = (c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
    device.cuda(
        "cuLaunchKernel", kernel, *grid, 1, _THREADS, 1, 1, 0, stream, byref(pointers), None
    )  # fmt: skip
