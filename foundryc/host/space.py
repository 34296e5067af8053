"""The memory of a recording: one mapping, as a replay has it."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from foundryc.host.buffers import Buffer, TensorRef, raw_bytes, require_memory
from foundryc.host.plan import align
from foundryrt.errors import FoundryError
from foundryrt.host.arena import Arena
from foundryrt.host.replay import arena_view
from foundryrt.host.skeleton import flagged

_RESERVED = 1 << 40
"""Bytes of address space, of which only what is used takes memory."""
_FIRST = 4096
"""Nothing begins where the storage does: an offset that is not a tensor's own must not fit."""


class Space:
    """Registered tensors, and beside them for a while the memory of a replay, in one storage.

    ATen asks whether tensors share a storage, and counts some offsets from where it begins. In a
    replay all tensors lie in one. So what is tried out before a bundle is written lies in one too.
    """

    def __init__(self) -> None:
        self._arena = _reserve()
        self._whole = torch.frombuffer(self._arena.bytes.data, dtype=torch.uint8)
        self._arena.bytes[:_FIRST] = 0xA5
        self._end = _FIRST
        self._places: dict[Buffer, int] = {}
        self.view = arena_view(self._arena)
        """(address, sizes, strides, dtype) -> tensor."""

    def take(self, nbytes: int) -> int:
        """Address of `nbytes` bytes of zeros; MemoryError where the machine has not so many."""
        require_memory(nbytes)
        address, self._end = self._end, align(self._end + nbytes)
        if self._end > self._arena.bytes.size:
            raise FoundryError(
                f"a recording of {self._end} bytes does not fit the address space; raise ulimit -v"
            )
        return address

    def tensor(
        self, sizes: Sequence[int], strides: Sequence[int], dtype: torch.dtype
    ) -> torch.Tensor:
        """Zeros in lasting memory, as a storage of their own; `place` tells where it lies."""
        elements = 1 + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
        nbytes = 0 if 0 in sizes else elements * dtype.itemsize
        if not nbytes:
            return torch.empty_strided(sizes, strides, dtype=dtype)
        address = self.take(nbytes)
        flat = torch.frombuffer(self._arena.bytes.data[address : address + nbytes], dtype=dtype)
        return flat.as_strided(sizes, strides)

    def place(self, buffer: Buffer, tensor: torch.Tensor) -> None:
        """Note that `buffer` is the memory of `tensor`, which `tensor()` made."""
        if buffer.nbytes:
            self._places[buffer] = tensor.data_ptr() - self._whole.data_ptr()

    def address(self, buffer: Buffer) -> int | None:
        """Where a buffer of lasting memory lies; None for one that has no place here."""
        return self._places.get(buffer) if buffer.nbytes else _FIRST

    def bytes(self, address: int, nbytes: int) -> torch.Tensor:
        """Memory as 1-D uint8."""
        return self._whole[address : address + nbytes]

    def copy(self, buffer: Buffer, contents: torch.Tensor) -> int:
        """Address of a copy of a buffer's bytes (1-D uint8)."""
        address = self.take(buffer.nbytes)
        self.bytes(address, buffer.nbytes).copy_(contents)
        return address

    def mirror(
        self, ref: TensorRef, tensor: torch.Tensor, copies: dict[Buffer, int]
    ) -> torch.Tensor:
        """`tensor` in this memory; `copies` has the buffers that were copied into it for that."""
        address = self.address(ref.buffer)
        if address is None:
            if ref.buffer not in copies:
                copies[ref.buffer] = self.copy(ref.buffer, raw_bytes(tensor))
            address = copies[ref.buffer]
        plain = self.view(address + ref.offset, ref.sizes, ref.strides, ref.dtype)
        return flagged(plain, ref.conj, ref.neg)

    @contextmanager
    def temporary(self) -> Iterator[None]:
        """What the body takes is given back after it, and zero again."""
        before = self._end
        try:
            yield
        finally:
            used, self._end = self._end, before
            kept = align(before, mmap.PAGESIZE)
            self._arena.bytes[before : min(kept, used)] = 0
            if used > kept:
                self._arena.forget(kept, align(used, mmap.PAGESIZE) - kept)


def _reserve() -> Arena:
    """As much address space as there is, up to `_RESERVED`."""
    size = _RESERVED
    while True:
        try:
            return Arena(size, reserve=True)
        except FoundryError:
            if size <= 1 << 24:
                raise
            size //= 4
