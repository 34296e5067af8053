"""The device a bundle opens on: its context, and checks before anything is allocated."""

from __future__ import annotations

import threading
from ctypes import byref, c_int32, c_size_t, c_void_p, sizeof
from dataclasses import dataclass

from foundryrt.bundle.schema import Requirements
from foundryrt.cuda.driver import CAPABILITY_MAJOR, CAPABILITY_MINOR, Driver
from foundryrt.errors import FoundryError, closed
from foundryrt.undo import Undo

_current = threading.local()


@dataclass(frozen=True)
class Device:
    """A device with its primary context retained."""

    cuda: Driver
    ordinal: int
    context: int
    architecture: str
    """Such as `sm_90`."""

    def enter(self) -> None:
        """Make the context current on the calling thread."""
        # Compared by the device: a new context may have the handle of one that was freed.
        if getattr(_current, "device", None) is not self:
            self.cuda("cuCtxSetCurrent", self.context)
            _current.device = self

    def enter_open(self, undo: Undo, what: str = "the session") -> None:
        """As `enter`; UsageError where what `undo` frees has been freed: `what` is closed."""
        if not undo.pending:
            raise closed(what)
        self.enter()

    def free_memory(self) -> int:
        """Bytes that can still be allocated."""
        free, total = c_size_t(), c_size_t()
        self.cuda("cuMemGetInfo_v2", byref(free), byref(total))
        return free.value

    def write_aside(self, address: int, word: int) -> None:
        """Write an int32 although the session's stream is busy: at once, not in its order."""
        value = c_int32(word)
        self.enter()
        # On CUDA's default stream, which a non-blocking stream does not hold up.
        self.cuda("cuMemcpyHtoD_v2", address, byref(value), sizeof(value))


def open_device(cuda: Driver, ordinal: int, needs: Requirements, undo: Undo) -> Device:
    """Retain the primary context of device `ordinal` and make it current.

    FoundryError where the device does not fit: its architecture and driver are looked at before it
    is touched, its free memory before any is taken.
    """
    device = cuda.ask("cuDeviceGet", ordinal)
    architecture = architecture_of(cuda, device)
    _check_device(needs, architecture, cuda.version())
    context = c_void_p()
    cuda.hold(
        undo, "cuDevicePrimaryCtxRetain", (byref(context), device),
        "cuDevicePrimaryCtxRelease_v2", (device,),
    )  # fmt: skip
    opened = Device(cuda, device, context.value or 0, architecture)
    opened.enter()
    _check_memory(needs, opened)
    return opened


def architecture_of(cuda: Driver, device: int) -> str:
    """Such as `sm_90`, of a CUdevice; nothing of it is used."""
    major = cuda.ask("cuDeviceGetAttribute", CAPABILITY_MAJOR, device)
    minor = cuda.ask("cuDeviceGetAttribute", CAPABILITY_MINOR, device)
    return f"sm_{major}{minor}"


def _check_device(needs: Requirements, architecture: str, version: int) -> None:
    if needs.architecture != architecture:
        raise FoundryError(
            f"the bundle was captured on {needs.architecture}, this GPU is {architecture};"
            " capture it again on such a GPU"
        )
    if needs.driver > version:
        raise FoundryError(
            f"the bundle needs a driver of CUDA {_release(needs.driver)}, this one knows"
            f" {_release(version)}; update the NVIDIA driver"
        )


def _check_memory(needs: Requirements, device: Device) -> None:
    free = device.free_memory()
    if needs.memory > free:
        raise FoundryError(
            f"the bundle needs {needs.memory} bytes of device memory, {free} are free; free some"
            " or use a smaller bundle"
        )


def _release(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
