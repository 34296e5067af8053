"""The CUDA kernels compiled for the CPU by g++, with fibers for threads (cuda_on_cpu.h)."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np

from otfs_pipeline.receiver.kernels import program
from otfs_pipeline.receiver.kernels.geometry import Geometry

HERE = Path(__file__).parent

# Of `receive` below.
PARAMETERS = (
    "samples", "taps_table", "tap_energy", "noise", "groups", "noise_variance", "taps",
    "equalized", "moments", "mailbox", "symbols", "llr", "bits", "mu", "variance",
)  # fmt: skip
LAUNCHES = """
extern "C" void receive(const Sample* samples, Sample* taps, float* tap_energy, float* noise,
    int* groups, float* noise_variance, long long* kept, Sample* equalized, Sample* moments,
    Slot* mailbox, Sample* symbols, void* llr, void* bits, float* mu, float* variance) {
  launch(%(window)d, 32 * WINDOW_ROWS, 1, 0, [=] {
      window_cu::read_window(samples, taps, tap_energy, noise, mailbox); });
  launch(1, 1024, 1, 0, [=] {
      select_cu::select_taps(taps, tap_energy, noise, groups, noise_variance, kept); });
  launch(N * CLUSTER, THREADS, CLUSTER, sizeof(equalize_cu::Shared), [=] {
      equalize_cu::equalize(samples, taps, groups, noise_variance, equalized, moments, mailbox); });
  launch(%(data)d, 256, 1, 0, [=] {
      demap_cu::demap(equalized, moments, symbols, (demap_cu::SymbolLlr*)llr,
                      (demap_cu::SymbolBits*)bits, mu, variance); });
}
"""


def receive(samples: np.ndarray, geometry: Geometry, folder: Path) -> dict[str, np.ndarray]:
    """One frame [MN] complex64 through the kernels; results as those of `receiver.Receiver`."""
    text = ['#include "cuda_on_cpu.h"', program.macros(geometry), program.text("common.cuh")]
    text.append('#include "exchange_on_cpu.h"')
    for kernel in program.KERNELS:
        own = program.files(geometry, kernel)
        # What cuda_on_cpu.h has in their place.
        files = [f for f in own if f not in ("common.cuh", "cluster.cuh", "mailbox.cuh")]
        name = files[-1].replace(".", "_")
        text.append(f"namespace {name} {{\n{''.join(map(program.text, files))}\n}}")
    text.append(
        LAUNCHES
        % {"window": program.launches(geometry)["read_window"].blocks, "data": geometry.data_blocks}
    )
    code, library = folder / "kernels.cpp", folder / "kernels.so"
    code.write_text("\n".join(text))
    command = ["g++", "-std=c++17", "-O1", "-w", "-shared", "-fPIC", f"-I{HERE}"]
    subprocess.run([*command, str(code), "-o", str(library)], check=True)
    arrays = {
        name: garbage(buffer.shape, buffer.dtype)
        for name, buffer in program.buffers(geometry).items()
    }
    known = {"samples": samples} | arrays
    pointers = [ctypes.c_void_p(known[name].ctypes.data) for name in PARAMETERS]
    ctypes.CDLL(str(library)).receive(*pointers)
    return arrays


def garbage(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """What nobody wrote must not look like a result."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.full(size, 0xFF, np.uint8).view(dtype).reshape(shape)
