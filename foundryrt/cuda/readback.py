"""Copies of a tensor into pinned memory, each with an event: later launches are not waited for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from foundryrt.cuda.driver import EVENT_WITHOUT_TIME
from foundryrt.cuda.pinned import pin
from foundryrt.cuda.tensor import DeviceTensor
from foundryrt.undo import Undo


class CudaReadback:
    """See `foundryrt.protocols.Readback`; copies are queued on the session's stream.

    `undo` is this object's own, and runs when nothing is queued on that stream any more.
    """

    overlaps = True

    def __init__(self, tensor: DeviceTensor, undo: Undo) -> None:
        self._tensor, self._device, self._undo = tensor, tensor.device, undo
        self._device.enter()
        try:
            pinned = pin(self._device, max(1, tensor.extent), undo)
            self._event = self._device.cuda.make(undo, "cuEventCreate", EVENT_WITHOUT_TIME)
        except BaseException:
            undo.rollback()
            raise
        self._host = np.frombuffer(pinned, np.uint8, tensor.extent)
        self._view = tensor.view(self._host)
        self._address = self._host.ctypes.data

    def start(self) -> None:
        self._device.enter_open(self._undo)
        cuda, tensor = self._device.cuda, self._tensor
        if tensor.extent:
            cuda(
                "cuMemcpyDtoHAsync_v2", self._address, tensor.address, tensor.extent, tensor.stream
            )
        cuda("cuEventRecord", self._event, tensor.stream)

    def wait(self) -> NDArray[Any]:
        self._device.enter_open(self._undo)
        self._device.cuda("cuEventSynchronize", self._event)
        return self._view
