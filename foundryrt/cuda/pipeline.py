"""Launches whose copies run beside other launches: three streams, pinned buffers, events.

A graph reads and writes fixed addresses, so each slot has device buffers of its own: the copies
between those and the graph's tensors stay on the device and take microseconds. Memory for values
that go ahead of their launch has its like on the device, which takes the place of these buffers.
All driver calls of a launch are one native call (native/queued.py).
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
from foundryrt.native.queued import (
    LAUNCH,
    NOTHING,
    ON_DEVICE,
    RECORD,
    TO_DEVICE,
    TO_HOST,
    WAIT,
    Call,
    Calls,
)
from foundryrt.pipeline import (
    check_inputs,
    check_part,
    check_size,
    check_slot,
    input_named,
    untimed,
)
from foundryrt.undo import Undo

if TYPE_CHECKING:
    from ctypes import c_int64

    from foundryrt.pipeline import Arrays


_ALIGNMENT = 256
# Bytes that are copied to or from the graph's tensors at once: each driver call takes longer.
_SMALL = 4096


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
    calls: Calls
    """The inputs' copies to the device, two of events, those to the tensors, and the rest."""


class CudaPipeline:
    """`depth` slots for launches of `executable`, a CUgraphExec. See `Pipeline`.

    `prepare` queues on a stream what each launch needs before. `undo` is this object's own.
    UsageError for an input with gaps between its elements: a copy would overwrite them.
    """

    def __init__(
        self,
        device: Device,
        executable: int,
        prepare: Callable[[int], None] | None,
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
        self._executable, self._prepare = executable, prepare
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

    def _enter(self) -> None:
        self._device.enter_open(self._undo, "the pipeline")

    def _slot(self, slot: int) -> _Slot:
        self._enter()
        check_slot(slot, self.depth)
        return self._slots[slot]

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

        def slot() -> _Slot:
            inputs, outputs = (
                {name: buffer(tensor) for name, tensor in tensors.items()}
                for tensors in (self._inputs, self._outputs)
            )
            arrived, computed, done = (self._event(flags) for _ in range(3))
            calls = Calls(self._calls(inputs, outputs, arrived, computed, done))
            return _Slot(inputs, outputs, arrived, computed, done, calls)

        return [slot() for _ in range(self.depth)]

    def _calls(
        self,
        inputs: Mapping[str, _Buffer],
        outputs: Mapping[str, _Buffer],
        arrived: int,
        computed: int,
        done: int,
    ) -> Iterator[Call]:
        arriving, compute, leaving = self._copy_in, self._compute, self._copy_out
        for buffer in inputs.values():
            yield Call(TO_DEVICE, arriving, buffer.device, 0, buffer.host.size)
        yield Call(RECORD, arriving, arrived)
        yield Call(WAIT, compute, arrived)
        for name, buffer in inputs.items():
            yield Call(ON_DEVICE, compute, self._inputs[name].address, 0, buffer.host.size)
        yield Call(LAUNCH, compute, self._executable)
        large = []
        for name, buffer in outputs.items():
            source, host = self._outputs[name].address, buffer.host
            if name not in self._lazy and host.size <= _SMALL:
                yield Call(TO_HOST, compute, host.ctypes.data, source, host.size)
                continue
            yield Call(ON_DEVICE, compute, buffer.device, source, host.size)
            if name not in self._lazy:
                large.append(buffer)
        yield Call(RECORD, compute, computed)
        yield Call(WAIT, leaving, computed)
        for buffer in large:
            target = buffer.host.ctypes.data
            yield Call(TO_HOST, leaving, target, buffer.device, buffer.host.size)
        yield Call(RECORD, leaving, done)

    def _pin(self, size: int) -> NDArray[np.uint8]:
        return np.frombuffer(pin(self._device, max(1, size), self._memory), np.uint8, size)

    def staging(self, name: str) -> NDArray[Any]:
        tensor = input_named(name, self._inputs)
        return tensor.view(self.memory(tensor.extent))

    def memory(self, size: int, ahead: bool = False) -> NDArray[np.uint8]:
        self._enter()
        host = self._pin(check_size(size))
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
        check_part(values)
        block = self._block(values)
        if block is not None and block.device:
            self._enter()
            to = block.device + values.ctypes.data - block.begin
            self._device.cuda.at_once(
                "cuMemcpyHtoDAsync_v2", to, values.ctypes.data, values.nbytes, self._copy_in
            )

    def submit(self, slot: int, values: Arrays) -> None:
        check_inputs(values, self._inputs)
        used = self._slot(slot)
        for index, (name, buffer) in enumerate(used.inputs.items()):
            source, there = self._arriving(values[name], buffer)
            to_device, to_tensor = used.calls[index], used.calls[len(used.inputs) + 2 + index]
            if source and buffer.host.size <= _SMALL:
                to_device.kind, to_tensor.kind, to_tensor.source = NOTHING, TO_DEVICE, source
                continue
            to_device.kind = TO_DEVICE if source else NOTHING
            to_device.source = source
            to_tensor.kind, to_tensor.source = ON_DEVICE, there
        if self._prepare is not None:
            self._prepare(self._compute)
        used.calls.make()

    def _arriving(self, values: NDArray[Any], buffer: _Buffer) -> tuple[int, int]:
        """What is copied to the device, 0 for values that went ahead, and where they are there."""
        block = self._block(values) if values.strides == buffer.view.strides else None
        if block is None:
            buffer.view[...] = values
            return buffer.host.ctypes.data, buffer.device
        address = values.ctypes.data
        if block.device:
            return 0, block.device + address - block.begin
        return address, buffer.device

    def done(self, slot: int) -> bool:
        return self._device.cuda.query("cuEventQuery", self._slot(slot).done)

    def idle(self, slot: int | None, word: c_int64, seen: int, seconds: float) -> None:
        event = 0
        if slot is None:
            self._enter()
        else:
            event = self._slot(slot).done
        idle(event, word, seen, seconds)

    def wait(self, slot: int) -> Arrays:
        if not self.done(slot):
            self._device.cuda("cuEventSynchronize", self._slots[slot].done)
        return _Results(self._device, self._slots[slot].outputs, self._lazy)

    def moments(self, slot: int) -> tuple[float, float, float]:
        if self._began is None:
            raise untimed()
        used = self._slot(slot)
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
