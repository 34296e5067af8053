"""A capture some of whose addresses are mapped already. Prints the error and the range."""

from __future__ import annotations

import ctypes
import json
import mmap

from foundryc.cuda.arena import BASE, CAPACITY
from foundryc.cuda.recording import CudaRecording
from foundryrt.bundle.schema import REGIONS
from foundryrt.errors import FoundryError

MAP_FIXED_NOREPLACE = 0x100000  # Linux; not in mmap

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
place = BASE + CAPACITY
flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
assert libc.mmap(place, 2 << 20, mmap.PROT_READ, flags, -1, 0) == place
message = ""
try:
    CudaRecording()
except FoundryError as error:
    message = str(error)
end = BASE + len(REGIONS) * CAPACITY
print(json.dumps({"message": message, "range": f"{BASE:#x} to {end:#x}"}))
