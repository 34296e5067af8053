"""The CUDA kernels compiled for the CPU by g++, with fibers for threads (cuda_on_cpu.h)."""

from __future__ import annotations

import ctypes
import subprocess
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
import pytest

from otfs_pipeline.link import reference
from otfs_pipeline.receiver.kernels import program
from otfs_pipeline.receiver.kernels.geometry import Geometry
from otfs_pipeline.receiver.kernels.macros import macros

HERE = Path(__file__).parent

# What cuda_on_cpu.h and exchange_on_cpu.h have in their place.
REPLACED = ("common.cuh", "cluster.cuh", "mailbox.cuh", "approximate.cuh")
# Calls a kernel with the buffers whose addresses are at `at`.
CALL = """
#include <utility>
template <class... A, std::size_t... I>
void call(void (*kernel)(A...), void* const* at, std::index_sequence<I...>) { kernel((A)at[I]...); }
template <class... A>
void call(void (*kernel)(A...), void* const* at) {
    call(kernel, at, std::index_sequence_for<A...>());
}
"""


def check_alike(
    got: dict[str, np.ndarray], exact: reference.Received, bits: np.ndarray, noise: float,
    close: float,
) -> None:  # fmt: skip
    """That a frame's results are those of numpy: noise within a share, symbols within `close`."""
    kept = [np.count_nonzero(e.taps.value) for e in exact.estimates]
    variances = [e.noise_variance for e in exact.estimates]
    assert np.atleast_1d(got["taps"]).tolist() == kept
    np.testing.assert_allclose(np.atleast_1d(got["noise_variance"]), variances, rtol=noise)
    assert got["mu"] == pytest.approx(exact.mu, rel=1e-4)
    assert got["variance"] == pytest.approx(exact.variance, rel=1e-2)
    np.testing.assert_allclose(got["symbols"], exact.symbols, atol=close)
    assert np.mean(got["bits"] != exact.bits) < 1e-3
    assert np.mean(got["bits"].ravel() != bits) < 0.1


def receive(samples: np.ndarray, geometry: Geometry, folder: Path) -> dict[str, np.ndarray]:
    """One frame [MN] complex64 through the kernels; results as those of `receiver.Receiver`."""
    text = ['#include "cuda_on_cpu.h"', macros(geometry), program.text("common.cuh")]
    text += ['#include "exchange_on_cpu.h"', CALL]
    link = geometry.settings
    calls, names = list[str](), list[str]()
    for kernel, source in program.kernels(link).items():
        own = program.files(geometry, kernel)
        files = [f for f in own if f not in REPLACED]
        space = files[-1].replace(".", "_")
        text.append(f"namespace {space} {{\n{''.join(map(program.text, files))}\n}}")
        blocks, threads, shared = program.launches(geometry)[kernel]
        cluster = geometry.cluster if kernel == "equalize" else 1
        calls.append(
            f"launch({blocks}, {threads}, {cluster}, {shared}, "
            f"[=] {{ call({space}::{kernel}, buffers + {len(names)}); }});"
        )
        names += source.parameters
    body = "\n".join(calls)
    text.append(f'extern "C" void receive(void* const* buffers) {{\n{body}\n}}')
    library = compiled("\n".join(text), folder)
    arrays = {
        name: garbage(buffer.shape, buffer.dtype)
        for name, buffer in program.buffers(geometry).items()
    }
    known = {"samples": samples} | program.constants(link) | arrays
    buffers = (ctypes.c_void_p * len(names))(*[known[name].ctypes.data for name in names])
    library.receive(buffers)
    return arrays


def compiled(code: str, folder: Path) -> ctypes.CDLL:
    """A library of this code, with variables of its own even where the same code is loaded."""
    with NamedTemporaryFile(dir=folder, suffix=".so") as library:
        library.write(_binary(code))
        library.flush()
        return ctypes.CDLL(library.name)


@cache
def _binary(code: str) -> bytes:
    with NamedTemporaryFile(suffix=".so") as library:
        command = ["g++", "-std=c++17", "-O1", "-w", "-shared", "-fPIC", f"-I{HERE}"]
        command += ["-xc++", "-", "-o", library.name]
        subprocess.run(command, input=code.encode(), check=True)
        return Path(library.name).read_bytes()


def garbage(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """What nobody wrote must not look like a result."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.full(size, 0xFF, np.uint8).view(dtype).reshape(shape)
