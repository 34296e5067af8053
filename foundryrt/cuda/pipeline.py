"""Launches whose copies run beside other launches: three streams, pinned buffers, events.

A graph reads and writes fixed addresses, so each slot has device buffers of its own: the copies
between those and the graph's tensors stay on the device and take microseconds.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from ctypes import c_uint64, c_void_p
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foundryrt.cuda.device import Device
from foundryrt.cuda.driver import EVENT_WITHOUT_TIME, NON_BLOCKING
from foundryrt.cuda.tensor import DeviceTensor
from foundryrt.errors import UsageError
from foundryrt.pipeline import check_inputs

if TYPE_CHECKING:
    from foundryrt.pipeline import Arrays


@dataclass(frozen=True)
class _Buffer:
    """Pinned memory, seen as bytes and as the tensor, and device memory of the same size."""

    host: NDArray[np.uint8]
    view: NDArray[Any]
    device: int


@dataclass(frozen=True)
class _Slot:
    inputs: dict[str, _Buffer]
    outputs: dict[str, _Buffer]
    arrived: int
    computed: int
    done: int


class CudaPipeline:
    """`depth` slots for launches of a graph; `launch` queues it on a stream. See `Pipeline`.

    UsageError for an input with gaps between its elements: a copy would overwrite them.
    """

    def __init__(
        self,
        device: Device,
        launch: Callable[[int], None],
        inputs: Mapping[str, DeviceTensor],
        outputs: Mapping[str, DeviceTensor],
        depth: int,
    ) -> None:
        for name, tensor in inputs.items():
            if tensor.extent != tensor.dtype.itemsize * int(np.prod(tensor.shape)):
                raise UsageError(f"input {name} is not dense; write it with Session.write")
        self.depth = depth
        self._device = device
        self._launch = launch
        self._inputs, self._outputs = dict(inputs), dict(outputs)
        self._staged: dict[int, NDArray[np.uint8]] = {}
        device.enter()
        with ExitStack() as undo:
            self._copy_in, self._compute, self._copy_out = (self._stream(undo) for _ in range(3))
            self._undo = undo
            self._slots = [self._slot() for _ in range(depth)]
            self._undo = undo.pop_all()

    def _stream(self, undo: ExitStack) -> int:
        stream = self._device.cuda.ask("cuStreamCreate", NON_BLOCKING, kind=c_void_p)
        undo.callback(self._device.cuda, "cuStreamDestroy_v2", stream)
        return stream

    def _event(self) -> int:
        event = self._device.cuda.ask("cuEventCreate", EVENT_WITHOUT_TIME, kind=c_void_p)
        self._undo.callback(self._device.cuda, "cuEventDestroy_v2", event)
        return event

    def _slot(self) -> _Slot:
        return _Slot(
            {name: self._buffer(tensor) for name, tensor in self._inputs.items()},
            {name: self._buffer(tensor) for name, tensor in self._outputs.items()},
            self._event(), self._event(), self._event(),
        )  # fmt: skip

    def _buffer(self, tensor: DeviceTensor) -> _Buffer:
        cuda = self._device.cuda
        host = self._pinned(tensor.extent)
        device = cuda.ask("cuMemAlloc_v2", max(1, tensor.extent), kind=c_uint64)
        self._undo.callback(cuda, "cuMemFree_v2", device)
        return _Buffer(host, tensor.view(host), device)

    def _pinned(self, size: int) -> NDArray[np.uint8]:
        cuda = self._device.cuda
        address = cuda.ask("cuMemHostAlloc", max(1, size), 0, kind=c_void_p)
        self._undo.callback(cuda, "cuMemFreeHost", address)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def staging(self, name: str) -> NDArray[Any]:
        self._device.enter()
        tensor = self._inputs[name]
        host = self._pinned(tensor.extent)
        self._staged[host.ctypes.data] = host
        return tensor.view(host)

    def submit(self, slot: int, values: Arrays) -> None:
        check_inputs(values, self._inputs)
        self._device.enter()
        cuda, used = self._device.cuda, self._slots[slot]
        for name, buffer in used.inputs.items():
            source = self._staged.get(values[name].ctypes.data)
            if source is None:
                source = buffer.host
                buffer.view[...] = values[name]
            cuda("cuMemcpyHtoDAsync_v2", buffer.device, source.ctypes.data, source.size,
                 self._copy_in)  # fmt: skip
        self._then(self._copy_in, used.arrived, self._compute)
        for name, buffer in used.inputs.items():
            self._on_device(self._inputs[name].address, buffer.device, buffer.host.size)
        self._launch(self._compute)
        for name, buffer in used.outputs.items():
            self._on_device(buffer.device, self._outputs[name].address, buffer.host.size)
        self._then(self._compute, used.computed, self._copy_out)
        for buffer in used.outputs.values():
            cuda("cuMemcpyDtoHAsync_v2", buffer.host.ctypes.data, buffer.device, buffer.host.size,
                 self._copy_out)  # fmt: skip
        cuda("cuEventRecord", used.done, self._copy_out)

    def _then(self, stream: int, event: int, waiting: int) -> None:
        self._device.cuda("cuEventRecord", event, stream)
        self._device.cuda("cuStreamWaitEvent", waiting, event, 0)

    def _on_device(self, to: int, source: int, size: int) -> None:
        self._device.cuda("cuMemcpyDtoDAsync_v2", to, source, size, self._compute)

    def done(self, slot: int) -> bool:
        self._device.enter()
        return self._device.cuda.query("cuEventQuery", self._slots[slot].done)

    def wait(self, slot: int) -> Arrays:
        self._device.enter()
        self._device.cuda("cuEventSynchronize", self._slots[slot].done)
        return {name: buffer.view for name, buffer in self._slots[slot].outputs.items()}

    def _drain(self) -> None:
        for stream in (self._copy_in, self._compute, self._copy_out):
            self._device.cuda("cuStreamSynchronize", stream)

    def close(self) -> None:
        self._device.enter()
        # Buffers must outlive the copies, and are freed also where waiting fails.
        with self._undo:
            self._drain()
