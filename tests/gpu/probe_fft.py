"""What cuFFT keeps in its modules' variables: names, sizes, values, and whether those are addresses."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_size_t, c_uint, c_uint64

import torch

from foundryc.cuda import elf
from foundryc.cuda.recording import CudaRecording
from foundryc.cuda.variables import _driver

r = CudaRecording()
x = r.register("x", torch.randn(256, 1024), "input")
for shape in ((256, 1024), (512, 512), (64, 4096)):
    y = x.view(shape)
    with torch.inference_mode():
        with r.warm_up():
            torch.fft.fft(y)
        try:
            with r.graph(f"fft{shape}") as g:
                g.output("y", torch.fft.fft(y))
        except Exception as error:
            print("capture", error)
            continue
    cuda = _driver()
    for f in g.captured.functions:
        cubin = r.harvest.binary_of(f.name, f.module)
        print(shape, f.name[:120], len(cubin))
        known = []
        for s in elf.symbols(cubin):
            if s.kind != elf.OBJECT or s.name.startswith("__unnamed"):
                continue
            address, size = c_uint64(), c_size_t()
            code = cuda.cuModuleGetGlobal_v2(byref(address), byref(size), f.module, s.name.encode())
            data = (c_uint64 * 4)()
            if code == 0 and size.value:
                cuda.cuMemcpyDtoH_v2(data, address, min(size.value, 32))
            known.append((s.name, code, hex(address.value), size.value, s.size, [hex(v) for v in data]))
            for value in data[:1]:
                start, length, memory = c_uint64(), c_size_t(), c_uint()
                found = cuda.cuPointerGetAttribute(byref(memory), 2, c_uint64(value))
                cuda.cuPointerGetAttribute(byref(start), 11, c_uint64(value))
                cuda.cuPointerGetAttribute(byref(length), 12, c_uint64(value))
                known[-1] += (found, memory.value, hex(start.value), length.value)
        print("  ", known[:12], len(known))
