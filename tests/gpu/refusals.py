"""What a capture must refuse, each in this process. Prints a JSON of names and messages."""

from __future__ import annotations

import ctypes
import json
from ctypes import byref, c_size_t, c_uint64, c_void_p

import torch

from foundryc.cuda.recording import CudaRecording
from foundryrt.errors import FoundryError

r = CudaRecording()
x = r.register("x", torch.ones(64), "input")
outside = torch.ones(64, device="cuda")
pinned = torch.ones(64, pin_memory=True)
messages = {}

cuda = ctypes.CDLL("libcuda.so.1")
cuda.cuLaunchHostFunc.argtypes = (c_void_p, c_void_p, c_void_p)
cuda.cuMemAllocAsync.argtypes = (c_void_p, c_size_t, c_void_p)
nothing = ctypes.CFUNCTYPE(None, c_void_p)(lambda _: None)


def stream():
    return torch.cuda.current_stream().cuda_stream


def host_function():
    out = x.sin()
    assert cuda.cuLaunchHostFunc(stream(), ctypes.cast(nothing, c_void_p), None) == 0
    return out


def allocation():
    out = x.cos()
    assert cuda.cuMemAllocAsync(byref(c_uint64()), 1 << 20, stream()) == 0
    return out


def attempt(name, body, warm=True):
    try:
        if warm:
            with r.warm_up():
                body()
        with r.graph(name) as g:
            g.output("out", body())
        messages[name] = ""
    except FoundryError as error:
        messages[name] = str(error)


class PinnedMemory:
    """Host memory as a library might hand it to a kernel."""

    def __init__(self) -> None:
        self.__cuda_array_interface__ = {
            "shape": (64,), "typestr": "<f4", "data": (pinned.data_ptr(), False), "version": 3,
        }  # fmt: skip


attempt("outside", lambda: x + outside)
attempt("pinned", lambda: x + torch.as_tensor(PinnedMemory(), device="cuda"))
attempt("host_copy", lambda: x.copy_(pinned, non_blocking=True))
attempt("host_function", host_function, warm=False)
attempt("allocation", allocation, warm=False)
attempt("fine", lambda: x * 2)
try:
    CudaRecording()
    messages["late"] = ""
except FoundryError as error:
    messages["late"] = str(error)
print(json.dumps(messages))
