"""A capture whose addresses something else has reserved. Prints the error and the range."""

from __future__ import annotations

import ctypes
import json

from foundryc.cuda.arena import BASE, CAPACITY
from foundryc.cuda.recording import CudaRecording
from foundryrt.bundle.schema import REGIONS
from foundryrt.errors import FoundryError

cuda = ctypes.CDLL("libcuda.so.1")
context, got = ctypes.c_void_p(), ctypes.c_uint64()
assert cuda.cuInit(0) == 0
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert cuda.cuCtxSetCurrent(context) == 0
reserve = cuda.cuMemAddressReserve
reserve.argtypes = (ctypes.c_void_p, *(ctypes.c_uint64,) * 4)
assert reserve(ctypes.byref(got), 2 << 20, 0, BASE, 0) == 0
message = ""
try:
    CudaRecording()
except FoundryError as error:
    message = str(error)
end = BASE + len(REGIONS) * CAPACITY
print(json.dumps({"message": message, "range": f"{BASE:#x} to {end:#x}", "had": got.value == BASE}))
