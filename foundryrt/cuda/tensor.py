"""A named tensor on the device, as numpy copies, DLPack and `__cuda_array_interface__`."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from foundryrt.bundle.schema import DTYPES, Tensor
from foundryrt.cuda.device import Device
from foundryrt.cuda.dlpack import CUDA, capsule
from foundryrt.errors import UsageError

_NUMPY = {"bfloat16": "uint16", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8"}


@dataclass(frozen=True)
class DeviceTensor:
    """`schema` at the device address `address`; types that numpy lacks are seen as their bits."""

    schema: Tensor
    address: int
    device: Device
    stream: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """numpy's dtype of the elements."""
        return np.dtype(_NUMPY.get(self.schema.dtype, self.schema.dtype))

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
        size = self.dtype.itemsize
        return {
            "shape": self.schema.shape,
            "strides": tuple(step * size for step in self.schema.strides),
            "typestr": self.dtype.str,
            "data": (self.address if prod(self.schema.shape) else 0, False),
            "version": 3,
            "stream": self.stream,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return (CUDA, self.device.ordinal)

    def __dlpack__(self, *, stream: int | None = None, **_: Any) -> Any:
        """A capsule over this memory, after what the session's stream holds; until `close`."""
        # -1 is the protocol's "do not synchronize".
        if stream != -1:
            self.device.enter()
            self.device.cuda("cuStreamSynchronize", self.stream)
        schema = self.schema
        return capsule(
            self, self.address, self.device.ordinal, schema.dtype, schema.shape, schema.strides
        )

    def _host(self) -> npt.NDArray[np.uint8]:
        out = np.empty(self.extent, np.uint8)
        self.device.enter()
        self.device.cuda(
            "cuMemcpyDtoHAsync_v2", out.ctypes.data, self.address, out.size, self.stream
        )
        self.device.cuda("cuStreamSynchronize", self.stream)
        return out

    def view(self, data: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """`data`, `extent` bytes of host memory, seen as this tensor."""
        if data.size == 0:
            return np.empty(self.schema.shape, self.dtype)
        size = self.dtype.itemsize
        strides = tuple(step * size for step in self.schema.strides)
        return np.ndarray(self.schema.shape, self.dtype, data.data, 0, strides)

    def read(self) -> npt.NDArray[Any]:
        """A copy on the host, after everything queued on the session's stream."""
        return np.array(self.view(self._host()), order="C")

    def write(self, values: npt.NDArray[Any]) -> None:
        """Replace the contents; UsageError unless shape and dtype agree."""
        array = np.asarray(values)
        if array.shape != tuple(self.schema.shape) or array.dtype != self.dtype:
            raise UsageError(
                f"{self.schema.name} is {self.dtype} {self.schema.shape}, not {array.dtype}"
                f" {array.shape}"
            )
        if self.extent == 0:
            return
        # Gaps between strided elements keep what they hold.
        dense = self.extent == array.nbytes
        data = np.empty(self.extent, np.uint8) if dense else self._host()
        self.view(data)[...] = array
        self.device.enter()
        self.device.cuda(
            "cuMemcpyHtoDAsync_v2", self.address, data.ctypes.data, data.size, self.stream
        )
        self.device.cuda("cuStreamSynchronize", self.stream)
