"""CUDA source to a cubin by NVRTC, the one that torch brings."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_char_p, c_int, c_size_t, c_void_p
from functools import cache
from pathlib import Path

from foundryc.cuda import wheels
from foundryrt.errors import FoundryError


@cache
def _nvrtc() -> ctypes.CDLL:
    usual = ("libnvrtc.so.13", "/usr/local/cuda/lib64/libnvrtc.so.13")
    for name in (*wheels.installed("libnvrtc"), *usual):
        try:
            # What NVRTC opens by name when it compiles: found only if it is in the process already.
            for builtins in sorted(Path(name).parent.glob("libnvrtc-builtins.so.*")):
                ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.nvrtcGetErrorString.restype = c_char_p
        library.nvrtcCreateProgram.argtypes = (
            c_void_p, c_char_p, c_char_p, c_int, c_void_p, c_void_p,
        )  # fmt: skip
        library.nvrtcCompileProgram.argtypes = (c_void_p, c_int, c_void_p)
        for call in ("nvrtcGetCUBINSize", "nvrtcGetCUBIN", "nvrtcGetProgramLogSize"):
            getattr(library, call).argtypes = (c_void_p, c_void_p)
        library.nvrtcGetProgramLog.argtypes = (c_void_p, c_void_p)
        return library
    raise FoundryError("libnvrtc is not here; install nvidia-cuda-nvrtc, which torch needs too")


def compile_cubin(source: Path, architecture: str) -> bytes:
    """`compile_text` of a source file."""
    return compile_text(source.read_bytes(), source.name, architecture)


def compile_text(text: bytes, name: str, architecture: str) -> bytes:
    """The binary of a source for `sm_90` or the like; FoundryError with the compiler's log.

    `name` stands for the source in messages.
    """
    nvrtc = _nvrtc()
    program = c_void_p()

    def check(code: int, what: str) -> None:
        if code:
            size = c_size_t()
            nvrtc.nvrtcGetProgramLogSize(program, byref(size))
            log = ctypes.create_string_buffer(max(size.value, 1))
            nvrtc.nvrtcGetProgramLog(program, log)
            reason = nvrtc.nvrtcGetErrorString(code).decode()
            said = log.value.decode(errors="replace")[:4000]
            raise FoundryError(f"{name}: {what}: {reason}\n{said}")

    check(nvrtc.nvrtcCreateProgram(byref(program), text, name.encode(), 0, None, None),
          "nvrtcCreateProgram")  # fmt: skip
    try:
        options = (c_char_p * 2)(f"-arch={architecture}".encode(), b"-std=c++17")
        check(nvrtc.nvrtcCompileProgram(program, len(options), options), "nvrtcCompileProgram")
        size = c_size_t()
        check(nvrtc.nvrtcGetCUBINSize(program, byref(size)), "nvrtcGetCUBINSize")
        data = ctypes.create_string_buffer(size.value)
        check(nvrtc.nvrtcGetCUBIN(program, data), "nvrtcGetCUBIN")
        return data.raw
    finally:
        nvrtc.nvrtcDestroyProgram(byref(program))
