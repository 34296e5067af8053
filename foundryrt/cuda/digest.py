"""BLAKE3 digests of device memory, taken by the device: it reads many times faster than a CPU.

What is checked is what arrived, so the copy itself is checked too. The kernel comes with the bundle
(foundryc/cuda/digest.cu).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from ctypes import byref, c_uint64, c_void_p

from foundryrt.cuda.device import Device
from foundryrt.undo import Undo

CHUNKS, TREE = "foundry_blake3_chunks", "foundry_blake3_tree"
ALIGNMENT = 16
_CHUNK = 1024
_BATCH = 256 << 10  # chunks whose values are kept at once, 32 bytes each
_THREADS = 256

Range = tuple[int, int]
"""Device address, a multiple of ALIGNMENT, and bytes, at least one."""


class Digester:
    """Takes the digests of `ranges`, at least one, any number of times.

    Kernels are loaded and memory is taken here, so that `take` only launches. `undo` frees them;
    work queued on `stream` must be over by then. FoundryError for a driver error, after which
    nothing is left.
    """

    def __init__(
        self, device: Device, stream: int, cubin: bytes, ranges: Sequence[Range], undo: Undo
    ) -> None:
        self._device = device
        self._stream = stream
        device.enter()
        cuda = device.cuda
        counts = [-(-length // _CHUNK) for _, length in ranges]
        self._batches = [
            (start, end, -(-max(counts[start:end]) // _THREADS)) for start, end in _batches(counts)
        ]
        table, first = [], 0
        for (address, length), count in zip(ranges, counts, strict=True):
            table += [address, length, first]
            first += count
        host = (c_uint64 * len(table))(*table)
        self._bytes = 32 * len(ranges)
        made = undo.part()
        try:
            self._load(cubin, made)
            largest = max(sum(counts[start:end]) for start, end, _ in self._batches)
            self._rows, self._out, self._values, self._spare = (
                cuda.make(made, "cuMemAlloc_v2", size)
                for size in (ctypes.sizeof(host), self._bytes, 32 * largest, 32 * largest)
            )
            cuda("cuMemcpyHtoDAsync_v2", self._rows, host, ctypes.sizeof(host), stream)
        except BaseException:
            made.rollback()
            raise

    def _load(self, cubin: bytes, undo: Undo) -> None:
        cuda = self._device.cuda
        library = cuda.make(undo, "cuLibraryLoadData", cubin, None, None, 0, None, None, 0)

        def function(name: str) -> int:
            kernel = cuda.ask("cuLibraryGetKernel", library, name.encode(), kind=c_void_p)
            # Loads what the driver would load at the first launch.
            return cuda.ask("cuKernelGetFunction", kernel, kind=c_void_p)

        self._chunks, self._tree = function(CHUNKS), function(TREE)

    def take(self) -> list[bytes]:
        """The digest of each range once everything queued on the stream has happened."""
        self._device.enter()
        cuda = self._device.cuda
        found = ctypes.create_string_buffer(self._bytes)
        try:
            for start, end, width in self._batches:
                here, there = self._rows + 24 * start, self._out + 32 * start
                self._launch(self._chunks, (width, end - start), here, self._values)
                self._launch(self._tree, (end - start, 1), here, self._values, self._spare, there)
            cuda("cuMemcpyDtoHAsync_v2", found, self._out, self._bytes, self._stream)
        finally:
            # A copy still under way would write to what Python has freed.
            cuda("cuStreamSynchronize", self._stream)
        data = found.raw
        return [data[start : start + 32] for start in range(0, self._bytes, 32)]

    def _launch(self, kernel: int, grid: tuple[int, int], *arguments: int) -> None:
        values = [c_uint64(value) for value in arguments]
        pointers = (c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        self._device.cuda(
            "cuLaunchKernel", kernel, *grid, 1, _THREADS, 1, 1, 0, self._stream, byref(pointers),
            None,
        )  # fmt: skip


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
