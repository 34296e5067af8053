"""Launches whose copies run beside other launches: three streams, pinned buffers, events.

A graph reads and writes fixed addresses, so each slot has device buffers of its own: the copies
between those and the graph's tensors stay on the device and take microseconds. Memory for values
that go ahead of their launch has its like on the device, which takes the place of these buffers.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Collection, Iterator, Mapping
from ctypes import byref, c_float
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foundryrt.cuda.device import Device
from foundryrt.cuda.driver import EVENT_WITH_TIME, EVENT_WITHOUT_TIME, NON_BLOCKING
from foundryrt.cuda.pinned import pin
from foundryrt.cuda.tensor import DeviceTensor
from foundryrt.errors import UsageError
from foundryrt.native.idle import idle
from foundryrt.pipeline import check_inputs
from foundryrt.undo import Undo

if TYPE_CHECKING:
    from ctypes import c_int64

    from foundryrt.pipeline import Arrays


_ALIGNMENT = 256


@dataclass(frozen=True)
class _Buffer:
    """Pinned memory, seen as bytes and as the tensor, and device memory of the same size."""

    host: NDArray[np.uint8]
    view: NDArray[Any]
    device: int


@dataclass(frozen=True)
class _Block:
    """Pinned memory for arrays of the caller, up to `end`, and its like on the device, or 0."""

    begin: int
    end: int
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

    `undo` is this object's own. UsageError for an input with gaps between its elements: a copy
    would overwrite them.
    """

    def __init__(
        self,
        device: Device,
        launch: Callable[[int], None],
        inputs: Mapping[str, DeviceTensor],
        outputs: Mapping[str, DeviceTensor],
        depth: int,
        lazy: Collection[str],
        undo: Undo,
        timed: bool = False,
    ) -> None:
        for name, tensor in inputs.items():
            if tensor.extent != tensor.dtype.itemsize * int(np.prod(tensor.shape)):
                raise UsageError(f"input {name} is not dense; write it with Session.write")
        self.depth = depth
        self._device = device
        self._launch = launch
        self._inputs, self._outputs = dict(inputs), dict(outputs)
        self._lazy = frozenset(lazy)
        self._blocks: list[_Block] = []  # in the order of their addresses
        self._undo = undo
        device.enter()
        try:
            streams = [
                device.cuda.make(self._undo, "cuStreamCreate", NON_BLOCKING) for _ in range(3)
            ]
            self._copy_in, self._compute, self._copy_out = streams
            self._memory = self._undo.part()
            # Buffers must outlive the copies, and are freed also where waiting fails.
            self._undo.push(partial(_drain, device, streams))
            self._slots = self._make_slots(EVENT_WITH_TIME if timed else EVENT_WITHOUT_TIME)
            self._began = self._event(EVENT_WITH_TIME) if timed else None
            if self._began:
                device.cuda("cuEventRecord", self._began, self._compute)
        except BaseException:
            self._undo.rollback()
            raise

    def _event(self, flags: int) -> int:
        return self._device.cuda.make(self._memory, "cuEventCreate", flags)

    def _make_slots(self, flags: int) -> list[_Slot]:
        extents = [tensor.extent for tensor in (*self._inputs.values(), *self._outputs.values())]
        # Each begins as an allocation of its own would.
        sizes = [-(-extent // _ALIGNMENT) * _ALIGNMENT for extent in extents]
        free = self._pin(self.depth * sum(sizes))

        def buffer(tensor: DeviceTensor) -> _Buffer:
            nonlocal free
            host = free[: tensor.extent]
            free = free[-(-tensor.extent // _ALIGNMENT) * _ALIGNMENT :]
            device = self._device.cuda.make(self._memory, "cuMemAlloc_v2", max(1, tensor.extent))
            return _Buffer(host, tensor.view(host), device)

        return [
            _Slot(
                {name: buffer(tensor) for name, tensor in self._inputs.items()},
                {name: buffer(tensor) for name, tensor in self._outputs.items()},
                self._event(flags), self._event(flags), self._event(flags),
            )
            for _ in range(self.depth)
        ]  # fmt: skip

    def _pin(self, size: int) -> NDArray[np.uint8]:
        return np.frombuffer(pin(self._device, max(1, size), self._memory), np.uint8, size)

    def staging(self, name: str) -> NDArray[Any]:
        tensor = self._inputs[name]
        return tensor.view(self.memory(tensor.extent))

    def memory(self, size: int, ahead: bool = False) -> NDArray[np.uint8]:
        self._device.enter()
        host = self._pin(size)
        begin, like = host.ctypes.data, 0
        if ahead:
            like = self._device.cuda.make(self._memory, "cuMemAlloc_v2", max(1, size))
        insort(self._blocks, _Block(begin, begin + size, like), key=_begin)
        return host

    def _block(self, values: NDArray[Any]) -> _Block | None:
        """The one that all of a dense array lies in."""
        address = values.ctypes.data
        at = bisect_right(self._blocks, address, key=_begin) - 1
        if at < 0 or address + values.nbytes > self._blocks[at].end:
            return None
        return self._blocks[at]

    def upload(self, values: NDArray[Any]) -> None:
        block = self._block(values)
        if block is not None and block.device:
            self._device.enter()
            self._to_device(block.device + values.ctypes.data - block.begin, values)

    def submit(self, slot: int, values: Arrays) -> None:
        check_inputs(values, self._inputs)
        self._device.enter()
        used = self._slots[slot]
        sources = [self._arriving(values[name], buffer) for name, buffer in used.inputs.items()]
        self._then(self._copy_in, used.arrived, self._compute)
        for (name, buffer), source in zip(used.inputs.items(), sources, strict=True):
            self._on_device(self._inputs[name].address, source, buffer.host.size)
        self._launch(self._compute)
        for name, buffer in used.outputs.items():
            self._on_device(buffer.device, self._outputs[name].address, buffer.host.size)
        self._then(self._compute, used.computed, self._copy_out)
        queue = self._device.cuda.at_once
        for name, buffer in used.outputs.items():
            if name not in self._lazy:
                queue("cuMemcpyDtoHAsync_v2", buffer.host.ctypes.data, buffer.device,
                      buffer.host.size, self._copy_out)  # fmt: skip
        queue("cuEventRecord", used.done, self._copy_out)

    def _arriving(self, values: NDArray[Any], buffer: _Buffer) -> int:
        """Where on the device the values are once the copies that are queued have been made."""
        block = self._block(values) if values.strides == buffer.view.strides else None
        if block is not None and block.device:
            return block.device + values.ctypes.data - block.begin
        if block is None:
            buffer.view[...] = values
            values = buffer.host
        self._to_device(buffer.device, values)
        return buffer.device

    def _to_device(self, to: int, values: NDArray[Any]) -> None:
        queue = self._device.cuda.at_once
        queue("cuMemcpyHtoDAsync_v2", to, values.ctypes.data, values.nbytes, self._copy_in)

    def _then(self, stream: int, event: int, waiting: int) -> None:
        self._device.cuda.at_once("cuEventRecord", event, stream)
        self._device.cuda.at_once("cuStreamWaitEvent", waiting, event, 0)

    def _on_device(self, to: int, source: int, size: int) -> None:
        self._device.cuda.at_once("cuMemcpyDtoDAsync_v2", to, source, size, self._compute)

    def done(self, slot: int) -> bool:
        self._device.enter()
        return self._device.cuda.query("cuEventQuery", self._slots[slot].done)

    def idle(self, slot: int | None, word: c_int64, seen: int, seconds: float) -> None:
        self._device.enter()
        idle(0 if slot is None else self._slots[slot].done, word, seen, seconds)

    def wait(self, slot: int) -> Arrays:
        if not self.done(slot):
            self._device.cuda("cuEventSynchronize", self._slots[slot].done)
        return _Results(self._device, self._slots[slot].outputs, self._lazy)

    def moments(self, slot: int) -> tuple[float, float, float]:
        if self._began is None:
            raise UsageError("this pipeline keeps no times; make it with timed=True")
        self._device.enter()
        used = self._slots[slot]
        arrived, computed, done = map(self._since, (used.arrived, used.computed, used.done))
        return arrived, computed, done

    def _since(self, event: int) -> float:
        milliseconds = c_float()
        self._device.cuda("cuEventElapsedTime_v2", byref(milliseconds), self._began, event)
        return 1e-3 * milliseconds.value

    def close(self) -> None:
        self._undo.close()


class _Results(Mapping[str, NDArray[Any]]):
    """A slot's outputs; a lazy one is copied whenever it is asked for."""

    def __init__(
        self, device: Device, buffers: Mapping[str, _Buffer], lazy: Collection[str]
    ) -> None:
        self._device, self._buffers, self._lazy = device, buffers, lazy

    def __getitem__(self, name: str) -> NDArray[Any]:
        buffer = self._buffers[name]
        if name in self._lazy and buffer.host.size:
            self._device.enter()
            self._device.cuda("cuMemcpyDtoH_v2", buffer.host.ctypes.data, buffer.device,
                              buffer.host.size)  # fmt: skip
        return buffer.view

    def __iter__(self) -> Iterator[str]:
        return iter(self._buffers)

    def __len__(self) -> int:
        return len(self._buffers)


def _begin(block: _Block) -> int:
    return block.begin


def _drain(device: Device, streams: list[int]) -> None:
    device.enter()
    for stream in streams:
        device.cuda("cuStreamSynchronize", stream)
