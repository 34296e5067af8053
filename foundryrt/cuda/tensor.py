"""A named tensor on the device: bytes, numpy copies, DLPack and `__cuda_array_interface__`.

numpy is imported by methods that give or take arrays: the first launch can do without.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

from foundryrt.addresses import address_of
from foundryrt.arrays import as_array, check_array
from foundryrt.bundle.schema import DTYPES, SEEN_AS, Tensor
from foundryrt.cuda.device import Device
from foundryrt.cuda.dlpack import CUDA, capsule
from foundryrt.errors import UsageError
from foundryrt.undo import Undo

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from typing_extensions import Buffer

_TYPES = {
    name: f"{'|' if size == 1 else '<'}{SEEN_AS.get(name, name)[0]}{size}"
    for name, size in DTYPES.items()
}
"""numpy's type strings: byte order, the first letter of the kind, bytes."""


@dataclass(frozen=True)
class DeviceTensor:
    """`schema` at the device address `address`; types that numpy lacks are seen as their bits."""

    schema: Tensor
    address: int
    device: Device
    stream: int
    owner: object = field(default=None, compare=False, repr=False)
    """What holds the memory: as long as a tensor refers to it, nothing is freed unasked."""
    readonly: bool = False
    """Refuses writes, and DLPack, which cannot say so."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """numpy's dtype of the elements."""
        import numpy as np

        return np.dtype(_TYPES[self.schema.dtype])

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements of each dimension."""
        return tuple(self.schema.shape)

    @property
    def extent(self) -> int:
        """Bytes from the first element to the end of the last."""
        shape, strides = self.schema.shape, self.schema.strides
        if 0 in shape:
            return 0
        last = sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        return (last + 1) * DTYPES[self.schema.dtype]

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        size = DTYPES[self.schema.dtype]
        return {
            "shape": self.schema.shape,
            "strides": tuple(step * size for step in self.schema.strides),
            "typestr": _TYPES[self.schema.dtype],
            "data": (self.address if prod(self.schema.shape) else 0, self.readonly),
            "version": 3,
            "stream": self.stream,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return (CUDA, self.device.ordinal)

    def __dlpack__(self, *, stream: int | None = None, **_: Any) -> Any:
        """A capsule over this memory, after what the session's stream holds; until `close`."""
        if self.readonly:
            raise BufferError(f"{self.schema.name} is only to be read: use read() or write()")
        # -1 is the protocol's "do not synchronize".
        self._enter()
        if stream != -1:
            self.device.cuda("cuStreamSynchronize", self.stream)
        schema = self.schema
        return capsule(
            self, self.address, self.device.ordinal, schema.dtype, schema.shape, schema.strides
        )

    def _enter(self) -> None:
        """Make the device's context current; UsageError where the memory has been freed."""
        if isinstance(self.owner, Undo):
            self.device.enter_open(self.owner)
        else:
            self.device.enter()

    def read_bytes(self) -> bytearray:
        """A copy of the `extent` bytes, after everything queued on the session's stream."""
        data = bytearray(self.extent)
        if data:
            self._enter()
            self.device.cuda(
                "cuMemcpyDtoHAsync_v2", address_of(data), self.address, len(data), self.stream
            )
            self.device.cuda("cuStreamSynchronize", self.stream)
        return data

    def write_bytes(self, data: Buffer) -> None:
        """Replace the `extent` bytes, gaps between strided elements too.

        UsageError for more or fewer, and for bytes that do not lie one after another.
        """
        if self.readonly:
            raise UsageError(f"{self.schema.name} is only to be read here: use Session.write")
        view = memoryview(data)
        if not view.c_contiguous:
            raise UsageError(f"{self.schema.name}: the bytes given have gaps between them")
        if view.nbytes != self.extent:
            raise UsageError(f"{self.schema.name} has {self.extent} bytes, not {view.nbytes}")
        if not view.nbytes:
            return
        self._enter()
        self.device.cuda(
            "cuMemcpyHtoDAsync_v2", self.address, address_of(view), view.nbytes, self.stream
        )
        self.device.cuda("cuStreamSynchronize", self.stream)

    def view(self, data: bytearray | npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """`data`, `extent` bytes of host memory, seen as this tensor."""
        import numpy as np

        if not self.extent:
            return np.empty(self.schema.shape, self.dtype)
        size = self.dtype.itemsize
        strides = tuple(step * size for step in self.schema.strides)
        return np.ndarray(self.schema.shape, self.dtype, data, 0, strides)

    def read(self) -> npt.NDArray[Any]:
        """A copy on the host, after everything queued on the session's stream."""
        return self.view(self.read_bytes()).copy(order="C")

    def write(self, values: npt.NDArray[Any]) -> None:
        """Replace the contents; UsageError unless shape and dtype agree."""
        array = as_array(self.schema.name, values)
        check_array(self.schema.name, array, self)
        # Gaps between strided elements keep what they hold.
        dense = self.extent == array.nbytes
        data = bytearray(self.extent) if dense else self.read_bytes()
        self.view(data)[...] = array
        self.write_bytes(data)
