"""Digests that the device takes, beside those of the blake3 package: lengths that differ."""

from __future__ import annotations

import json
from ctypes import c_void_p
from pathlib import Path

import torch
from blake3 import blake3

import foundryc
from foundryc.cuda.kernels import compile_source
from foundryrt.cuda.device import Device
from foundryrt.cuda.digest import Digester
from foundryrt.cuda.driver import driver
from foundryrt.undo import Undo

LENGTHS = [1, 3, 63, 64, 65, 1023, 1024, 1025, 2048, 2049, 3 << 10, 100_001, 8 << 20, (8 << 20) - 5]

torch.cuda.init()
major, minor = torch.cuda.get_device_capability()
source = Path(foundryc.__file__).parent / "cuda" / "digest.cu"
cubin = compile_source(source.read_bytes(), source.name, f"sm_{major}{minor}")
data = torch.randint(0, 256, (len(LENGTHS), 8 << 20), dtype=torch.uint8, device="cuda")
torch.cuda.synchronize()
cuda = driver()
device = Device(cuda, 0, cuda.ask("cuDevicePrimaryCtxRetain", 0, kind=c_void_p), "")
# Many more ranges than one batch holds.
ranges = [(data[i].data_ptr(), length) for i, length in enumerate(LENGTHS)] * 40
with Undo() as undo:
    found = Digester(device, 0, cubin, ranges, undo).take()
want = [blake3(data[i, :n].cpu().numpy()).digest() for i, n in enumerate(LENGTHS)] * 40
wrong = [length for (_, length), a, b in zip(ranges, found, want, strict=True) if a != b]
print(json.dumps({"compared": len(found), "wrong": wrong}))
