"""Builds the native cores and the stand-in driver once, and makes the session use it."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from foundryrt.errors import FoundryError

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


class FakeDriver:
    """The stand-in's own controls."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.fakecuda_calls.restype = ctypes.c_int64
        library.fakecuda_loads.restype = ctypes.c_int64
        library.fakecuda_fail.argtypes = (ctypes.c_int64, ctypes.c_int)
        library.fakecuda_hold.argtypes = (ctypes.c_size_t, ctypes.c_int)
        library.fakecuda_device.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_uint64)

    def fail(self, call: int, code: int = 2) -> None:
        """Let the `call`th driver call from now on fail; 0 for none."""
        self._library.fakecuda_fail(call, code)

    def fail_each(self, use: Callable[[], object]) -> list[str]:
        """Have `use` run with each of its driver calls failing in turn; what its errors say.

        Whether it fails or not, nothing may be alive afterwards.
        """
        self.fail(0)
        use()
        total, said = self.calls, []
        for call in range(1, total + 1):
            self.fail(call)
            try:
                use()
            except FoundryError as error:
                said.append(str(error))  # the error itself would keep what it passed through
            assert self.live == "", f"call {call} of {total}"
        self.fail(0)
        return said

    def device(self, architecture: int = 90, version: int = 13000, memory: int = 1 << 30) -> None:
        """What the device claims to be."""
        self._library.fakecuda_device(architecture, version, memory)

    def hold(self, nodes: int = -1, code: int = 0) -> None:
        """Graphs of more nodes wait to be made, or fail with `code`; -1 for no such limit."""
        self._library.fakecuda_hold(nodes % (1 << 64), code)

    @property
    def instantiated(self) -> list[int]:
        """Nodes of the graphs whose making has begun since this was asked last."""
        text = ctypes.create_string_buffer(4096)
        self._library.fakecuda_instantiated(text, len(text))
        return [int(nodes) for nodes in text.value.split()]

    def peer(self, device: int = 0, access: bool = True) -> None:
        """Where memory of other processes lies, and whether the device can reach it."""
        self._library.fakecuda_peer(device, access)

    @property
    def calls(self) -> int:
        """Driver calls since `fail`."""
        return int(self._library.fakecuda_calls())

    @property
    def loads(self) -> int:
        """Binaries that were loaded since `fail`."""
        return int(self._library.fakecuda_loads())

    @property
    def live(self) -> str:
        """What was made and never freed, such as "stream 1"; empty for nothing."""
        text = ctypes.create_string_buffer(4096)
        self._library.fakecuda_live(text, len(text))
        return text.value.decode()


@pytest.fixture(scope="session")
def built() -> None:
    if shutil.which("cmake") is None:
        pytest.skip("cmake is needed to build the stand-in driver")
    # Nothing is written where nothing changed: other tests use the native cores meanwhile.
    build = ROOT / "build" / "tests"
    build.mkdir(parents=True, exist_ok=True)
    targets = ("foundryrt", "foundryc", "foundryhost", "fakecuda")
    with open(build / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (
            # Whose wheels have CUDA's headers.
            ["cmake", "-S", str(ROOT), "-B", str(build), f"-DPython3_EXECUTABLE={sys.executable}"],
            ["cmake", "--build", str(build), "-j", "2", "--target", *targets],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode and "CUDA_INCLUDE" in done.stderr:
                pytest.skip("the headers cuda.h and cupti.h are not installed")
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    # Both the driver module and the native core open it on their first call.


@pytest.fixture(scope="module")
def library(built: None) -> Iterator[ctypes.CDLL]:
    # No longer than a module: tests of other folders start processes of their own.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOUNDRY_LIBCUDA", str(HERE / "libfakecuda.so"))
        yield ctypes.CDLL(os.environ["FOUNDRY_LIBCUDA"], mode=ctypes.RTLD_GLOBAL)


@pytest.fixture
def fake(library: ctypes.CDLL) -> Iterator[FakeDriver]:
    """The stand-in, with no failure planned and nothing alive."""
    driver = FakeDriver(library)
    driver.fail(0)
    driver.device()
    _ = driver.instantiated  # asked now, it begins here
    assert driver.live == ""
    yield driver
    driver.fail(0)
    driver.hold()
    driver.device()
    driver.peer()
