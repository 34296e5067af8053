"""Kernels of one's own: CUDA source to a cubin by NVRTC, a cubin to launches by the driver."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from foundryc.cuda import driver, wheels
from foundryrt.errors import FoundryError, install

_LOG = 4000
"""Bytes of a compiler's log that a message shows."""


class Launchable(Protocol):
    """A kernel that a graph may launch."""

    def launch(
        self,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[int],
        stream: int,
        shared: int = 0,
    ) -> None:
        """As `Kernel.launch`."""


Loader = Callable[[bytes, str, int], Launchable]
"""Makes a kernel of a binary, its name, and how many bytes of dynamic shared memory it may have."""


def architecture(device: Any = None) -> str:
    """That of a GPU, by default torch's current one, as the compiler names it, such as `sm_90`."""
    import torch  # What is compiled without a GPU needs none.

    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def compile_source(text: str | bytes, name: str, architecture: str) -> bytes:
    """The cubin of a CUDA C++17 source for `architecture`, such as `sm_90`; needs no GPU.

    `name` stands for the source in messages. FoundryError with the compiler's log.
    """
    nvrtc = _nvrtc()
    source = text.encode() if isinstance(text, str) else text
    result, program = nvrtc.nvrtcCreateProgram(source, name.encode(), 0, None, None)
    if int(result):
        raise FoundryError(f"{name}: nvrtcCreateProgram: {_meaning(result)}")

    def check(call: str, result: Any) -> None:
        if int(result):
            raise FoundryError(f"{name}: {call}: {_meaning(result)}\n{_log(program)}")

    try:
        options = [f"-arch={architecture}".encode(), b"-std=c++17"]
        (result,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        check("nvrtcCompileProgram", result)
        result, size = nvrtc.nvrtcGetCUBINSize(program)
        check("nvrtcGetCUBINSize", result)
        cubin = bytearray(size)
        (result,) = nvrtc.nvrtcGetCUBIN(program, cubin)
        check("nvrtcGetCUBIN", result)
        return bytes(cubin)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


@dataclass(frozen=True)
class Kernel:
    """A kernel in the current context; its binary stays loaded for the life of the context."""

    name: str
    handle: Any
    """A CUfunction."""

    @classmethod
    def load(cls, image: bytes, name: str, shared: int = 0) -> Kernel:
        """The kernel `name` of the cubin `image`, for launches with at most `shared` bytes of
        dynamic shared memory a block.

        FoundryError where the device cannot load it or has less shared memory.
        """
        module = driver.call("cuModuleLoadData", image, about=name)
        handle = driver.call("cuModuleGetFunction", module, name.encode(), about=name)
        attribute = driver.bindings().CUfunction_attribute
        most = attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        driver.call("cuFuncSetAttribute", handle, most, shared, about=name)
        return cls(name, handle)

    def launch(
        self,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[int],
        stream: int,
        shared: int = 0,
    ) -> None:
        """Queue the kernel on `stream`, a CUstream's handle.

        `grid` in blocks and `block` in threads, along x, y and z; `arguments` are device addresses
        in the order of the parameters; `shared` are bytes of dynamic shared memory a block.
        """
        values = (tuple(arguments), (ctypes.c_void_p,) * len(arguments))
        driver.call("cuLaunchKernel", self.handle, *grid, *block, shared, stream, values, 0,
                    about=self.name)  # fmt: skip


@cache
def _nvrtc() -> Any:
    """`cuda.bindings.nvrtc` on the NVRTC that torch brings."""
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise FoundryError(
            f"capturing on cuda needs cuda-bindings: {install('capture')}"
        ) from error
    # cuda-bindings looks into site-packages alone; torch may be elsewhere on Python's path.
    for path in wheels.installed("libnvrtc")[:1]:
        for library in (*sorted(Path(path).parent.glob("libnvrtc-builtins.so.*")), path):
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    try:
        nvrtc.nvrtcVersion()
    except RuntimeError as error:
        raise FoundryError(
            "libnvrtc is not here; install nvidia-cuda-nvrtc, which torch needs too"
        ) from error
    return nvrtc


def _meaning(result: Any) -> str:
    return str(_nvrtc().nvrtcGetErrorString(result)[1].decode())


def _log(program: Any) -> str:
    """The compiler's log, or the beginning of a long one."""
    nvrtc = _nvrtc()
    result, size = nvrtc.nvrtcGetProgramLogSize(program)
    if int(result):
        return ""
    log = bytearray(size)
    nvrtc.nvrtcGetProgramLog(program, log)
    return log.rstrip(b"\0").decode(errors="replace")[:_LOG]
