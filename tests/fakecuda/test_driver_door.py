"""The capture side's door to the driver, through cuda-bindings on the stand-in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONTEXT = """
from foundryc.cuda import driver
from foundryrt.errors import FoundryError

def refused(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except FoundryError as error:
        return str(error)
    raise SystemExit("not refused")

driver.call("cuInit", 0)
context = driver.call("cuDevicePrimaryCtxRetain", driver.call("cuDeviceGet", 0))
driver.call("cuCtxSetCurrent", context)
"""


def run(script: str, **environment: str) -> None:
    """In a process of its own: a process takes one libcuda for good."""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT,
        env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_failure_names_call_error_meaning_and_remedy(fake):
    run(
        CONTEXT
        + """
assert driver.call("cuDriverGetVersion") == 13000
import ctypes, os
stand_in = ctypes.CDLL(os.environ["FOUNDRY_LIBCUDA"])
stand_in.fakecuda_fail(ctypes.c_int64(1), 2)
assert refused(driver.call, "cuMemAlloc", 1 << 20, about="a test") == (
    "cuMemAlloc (a test): CUDA_ERROR_OUT_OF_MEMORY (2), out of memory;"
    " free device memory, or use a bundle that needs less"
)
code, _ = driver.attempt("cuDeviceGet", 3)
assert code == 101
said = refused(driver.call, "cuGreenCtxCreate", None, None, 0)
assert "cuGreenCtxCreate cannot be called" in said and "CUDA 13.0 or later" in said, said
"""
    )


def test_a_library_that_is_not_there_is_named(fake):
    run(
        """
from foundryc.cuda import driver
from foundryrt.errors import FoundryError
try:
    driver.bindings()
except FoundryError as error:
    assert str(error).startswith("no GPU is visible here") and "/nowhere/libcuda.so" in str(error)
else:
    raise SystemExit("opened")
""",
        FOUNDRY_LIBCUDA="/nowhere/libcuda.so",
    )


def test_kernels_are_loaded_and_launched(fake):
    run(
        CONTEXT
        + """
from foundryc.cuda.kernels import Kernel
kernel = Kernel.load(b"FAKE add\\0", "add", shared=1024)
stream = int(driver.call("cuStreamCreate", 1))
kernel.launch((2, 1, 1), (32, 1, 1), (0x1000, 0x2000), stream, shared=1024)
driver.call("cuStreamSynchronize", stream)
assert refused(Kernel.load, b"FAKE add\\0", "sub").startswith("cuModuleGetFunction (sub): ")
assert refused(Kernel.load, b"none\\0", "add").startswith("cuModuleLoadData (add): ")
"""
    )


def test_a_variable_that_was_written_is_read_back(fake):
    run(
        CONTEXT
        + """
from unittest import mock
from foundryc.cuda import elf, variables
module = driver.call("cuModuleLoadData", b"FAKE add\\0")
symbols = [elf.Symbol(name, elf.OBJECT, 4, b"") for name in ("offset", "removed")]
with mock.patch.object(elf, "symbols", lambda cubin: symbols):
    assert variables.changed(variables.module_variables(int(module), b"")) == {}
    address, size = driver.call("cuModuleGetGlobal", module, b"offset")
    driver.call("cuMemcpyHtoD", address, (7).to_bytes(4, "little"), size)
    own = variables.module_variables(int(module), b"")
    assert variables.changed(own) == {"offset": (7).to_bytes(4, "little")}
"""
    )


def test_a_binary_is_pruned_only_where_the_driver_tells_no_difference(fake):
    run(
        CONTEXT
        + """
from pathlib import Path
from unittest import mock
from foundryc.cuda import prune_check
from foundryc.cuda.prune import prune
from foundryc.cuda.prune_check import pruned
facts = [((0,) * 7, ((0, 8), (8, 4), (12, 4)))]
assert prune_check._facts(b"FAKE add more\\0", {"add"}) == facts
with mock.patch.object(prune_check, "prune", lambda cubin, names: b"FAKE add\\0"):
    assert pruned(b"FAKE add more\\0", {"add"}) == b"FAKE add\\0"
    assert pruned(b"FAKE add more\\0", {"more"}) == b"FAKE add more\\0"
cubin = Path("tests/unit/data/kernels.cubin").read_bytes()
assert len(prune(cubin, {"first"})) < len(cubin)
assert pruned(cubin, {"first"}) is cubin
"""
    )
