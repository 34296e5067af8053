"""The kernels' source, buffers and launches; compiled by NVRTC where the receiver is captured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from foundryc.cuda.kernels import compile_source
from foundryrt.errors import FoundryError
from otfs_pipeline.link import frame
from otfs_pipeline.receiver.kernels.geometry import Geometry

# Kernel -> the files it is made of, and its buffers in the order of its parameters.
KERNELS = {
    "read_window": (
        ("common.cuh", "window.cu"),
        ("samples", "taps_table", "tap_energy", "noise"),
    ),
    "select_taps": (
        ("common.cuh", "select.cu"),
        ("taps_table", "tap_energy", "noise", "groups", "noise_variance", "taps"),
    ),
    "equalize": (
        (
            "common.cuh",
            "cluster.cuh",
            "layout.cuh",
            "exchange.cuh",
            "products.cuh",
            "setup.cuh",
            "equalize.cu",
        ),
        ("samples", "taps_table", "groups", "noise_variance", "equalized", "moments"),
    ),
    "demap": (
        ("common.cuh", "demap.cu"),
        ("equalized", "moments", "symbols", "llr", "bits", "mu", "variance"),
    ),
}


def buffers(geometry: Geometry) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name -> shape and dtype of all that the kernels write.

    taps_table [2D+1, window] taps h[b, a], 0 where dropped; tap_energy their |h|², noise one sum a
    block; groups the number of delay groups, then each one's first delay and how many delays are
    before it, the latter once more at the end; equalized [MN] x̂ in time, data samples only; moments
    [N] two sums a period; the rest is as `receiver.Receiver` has it.
    """
    s = geometry.settings
    table = (2 * s.doppler_range + 1, s.window_delays)
    data = frame.data_symbols(s)
    return {
        "taps_table": (table, "complex64"),
        "tap_energy": (table, "float32"),
        "noise": ((geometry.window_blocks,), "float32"),
        "groups": ((1 + 2 * (geometry.delays + 1),), "int32"),
        "noise_variance": ((), "float32"),
        "taps": ((), "int64"),
        "equalized": ((s.q,), "complex64"),
        "moments": ((s.n,), "complex64"),
        "symbols": ((data,), "complex64"),
        "llr": ((data, s.bits_per_symbol), "float32"),
        "bits": ((data, s.bits_per_symbol), "uint8"),
        "mu": ((), "float32"),
        "variance": ((), "float32"),
    }


def launches(geometry: Geometry) -> dict[str, tuple[int, int, int]]:
    """Kernel -> blocks, threads a block and bytes of dynamic shared memory."""
    s = geometry.settings
    return {
        "read_window": (geometry.window_blocks, 32 * geometry.window_rows, 0),
        "select_taps": (1, 1024, 0),
        "equalize": (s.n * geometry.cluster, geometry.threads, geometry.shared_bytes),
        "demap": (geometry.data_blocks, 256, 0),
    }


def macros(geometry: Geometry) -> str:
    """The sizes as #define lines."""
    return "".join(f"#define {k} {v}\n" for k, v in geometry.macros().items())


def text(file: str) -> str:
    """Contents of a source file beside this one."""
    return (Path(__file__).parent / file).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Function:
    """A loaded kernel; `launch` takes device addresses in the order of its parameters."""

    handle: Any
    blocks: int
    threads: int
    shared: int

    def launch(self, stream: int, addresses: tuple[int, ...]) -> None:
        """Queue it on a CUstream."""
        from ctypes import c_void_p

        from cuda.bindings import driver

        check(
            driver.cuLaunchKernel(
                self.handle, self.blocks, 1, 1, self.threads, 1, 1, self.shared, stream,
                (addresses, (c_void_p,) * len(addresses)), 0,
            )
        )  # fmt: skip


def images(geometry: Geometry, architecture: str) -> dict[str, bytes]:
    """Kernel -> cubin for `architecture` (such as sm_90a); no GPU is needed.

    FoundryError with the compiler's log where it fails.
    """
    return {
        name: _compile(macros(geometry) + "".join(text(file) for file in files), architecture)
        for name, (files, _) in KERNELS.items()
    }


def load(geometry: Geometry, images: dict[str, bytes]) -> dict[str, Function]:
    """All kernels from their cubins into the current context."""
    from cuda.bindings import driver

    functions = {}
    for name, image in images.items():
        module = check(driver.cuModuleLoadData(image))
        handle = check(driver.cuModuleGetFunction(module, name.encode()))
        blocks, threads, shared = launches(geometry)[name]
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        check(driver.cuFuncSetAttribute(handle, attribute, shared))
        functions[name] = Function(handle, blocks, threads, shared)
    return functions


@cache
def _compile(source: str, architecture: str) -> bytes:
    return compile_source(source, "otfs.cu", architecture)


def check(result: tuple[Any, ...]) -> Any:
    """The values of a driver's answer; FoundryError where it says that it failed."""
    status, *values = result
    if int(status):
        raise FoundryError(f"loading or launching the receiver's kernels: {status!r}")
    return values[0] if values else None
