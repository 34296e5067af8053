"""What a recording knows about memory: which storage is which buffer of the arena."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from foundryrt.bundle.schema import DTYPES
from foundryrt.free_memory import free_memory
from foundryrt.printable import size

_SMALL = 64 << 20
"""Bytes that nobody asks about, and that are left to others."""
_DTYPE_NAMES = {getattr(torch, name): name for name in DTYPES}


class Kind(Enum):
    """Where a buffer's bytes come from, which decides its region and its lifetime."""

    REGISTERED = "registered"
    """There before the graphs that use it."""
    CONSTANT = "constant"
    """A literal of the program, such as `torch.tensor([1, 2])`; stored in the bundle."""
    OUTPUT = "output"
    """Made by a graph and named by it: keeps its bytes until that graph's next launch."""
    SCRATCH = "scratch"
    """Made and used up inside one launch."""
    SLABS = "slabs"
    """The ranks' slabs, which others write to; between launches they are zeros."""


@dataclass(eq=False)
class Buffer:
    """A storage seen by a recording; equal only to itself.

    `graph` labels the graph that made it; `role` is a registered tensor's, else empty, as of memory
    that no name was given to; `data` holds a constant's bytes.
    """

    nbytes: int
    label: str
    kind: Kind
    graph: str = ""
    role: str = ""
    data: bytes = b""


@dataclass(frozen=True)
class TensorRef:
    """A strided view of a buffer: byte offset, sizes and strides in elements."""

    buffer: Buffer
    offset: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    conj: bool = False
    neg: bool = False


def dtype_name(dtype: torch.dtype) -> str | None:
    """torch's name of `dtype` without its module; None where a bundle cannot hold it."""
    return _DTYPE_NAMES.get(dtype)


def reference(tensor: torch.Tensor, buffer: Buffer) -> TensorRef:
    """`tensor`, whose storage is `buffer`, as a reference that outlives it."""
    # An empty view may begin beyond its storage, where a bundle has no memory.
    begins = int(tensor.storage_offset()) if tensor.numel() else 0
    return TensorRef(
        buffer,
        begins * tensor.element_size(),
        tuple(tensor.shape),
        tuple(tensor.stride()),
        _DTYPE_NAMES[tensor.dtype],
        tensor.is_conj(),
        tensor.is_neg(),
    )


def raw_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The whole storage of `tensor` as a 1-D uint8 tensor that shares its memory."""
    with torch.no_grad():
        return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


def copied_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of them; MemoryError where there is no room for it."""
    contents = raw_bytes(tensor)
    require_memory(contents.numel())
    return contents.clone()


def require_memory(nbytes: int) -> None:
    """MemoryError where that many bytes are not free: Linux gives them, and kills who uses them."""
    if nbytes < _SMALL:
        return
    free = free_memory()
    if free is not None and nbytes > free - _SMALL:
        raise MemoryError(f"Tried to allocate {size(nbytes)}, where {size(free)} are free")


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The elements' bytes in logical order as a 1-D uint8 tensor (a copy unless contiguous)."""
    plain = tensor.resolve_conj().resolve_neg().contiguous()
    # One element counts as contiguous with any stride, which a view of another dtype does not.
    return plain.as_strided((plain.numel(),), (1,)).view(torch.uint8)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equality of every bit: NaN equals itself and 0.0 differs from -0.0."""
    return torch.equal(bits(a), bits(b))


class Memory:
    """Storages by identity.

    A storage is recognised by its `StorageImpl`, held by a weak reference: that keeps the
    identity from being reused while the bytes can be freed as the workload continues.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[StorageWeakRef, Buffer]] = {}

    def add(self, tensor: torch.Tensor, buffer: Buffer) -> Buffer:
        """Note that the storage of `tensor` is `buffer`."""
        weak = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
        self._known[weak.cdata] = (weak, buffer)
        return buffer

    def find(self, tensor: torch.Tensor) -> Buffer | None:
        """The buffer that holds `tensor`; None for memory that was never recorded."""
        found = self._known.get(tensor.untyped_storage()._cdata)
        return None if found is None else found[1]
