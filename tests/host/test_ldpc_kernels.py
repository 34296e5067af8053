"""The CUDA decoder: run on the CPU against the decoder in torch, and compiled for GPUs."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from foundryc.cuda.kernels import compile_source
from otfs_pipeline.coding import encode
from otfs_pipeline.coding.transport import TransportBlock
from otfs_pipeline.receiver.decoder import Decoder, tables
from otfs_pipeline.receiver.kernels.decoder import PARAMETERS, Program
from otfs_pipeline.receiver.kernels.program import text
from tests.host.kernels_on_cpu import compiled

LAUNCHES = """
extern "C" void run(const float* llr, const int* rows, const unsigned* edges,
                    const unsigned* block_check, const unsigned* part_check, unsigned char* payload,
                    unsigned char* block_errors, unsigned* parts, const unsigned* places,
                    unsigned char* frame_error) {
  launch(BLOCKS, THREADS, 1, 4 * COLUMNS * LIFTING, [=] {
      decode(llr, rows, edges, block_check, part_check, payload, block_errors, parts); });
  launch(1, 32, 1, 0, [=] { check_frame(parts, places, block_errors, frame_error); });
}
"""
# Both graphs, one and several blocks, repeated bits, another version; noise that leaves errors.
CASES = [
    (TransportBlock.of(600, 4, 0.5), 0.7),
    (TransportBlock(40, 600, 2, 0.1), 1.6),
    (TransportBlock.of(9000, 6, 0.45), 0.74),
    (TransportBlock.of(20_000, 4, 0.45), 0.8),
    (TransportBlock(1000, 3000, 2, 0.5, 3), 0.7),
    (TransportBlock(1000, 3000, 2, 0.5, 1), 0.5),
]


def on_cpu(program: Program, llr: np.ndarray, folder: Path) -> dict[str, np.ndarray]:
    library = compiled('#include "cuda_on_cpu.h"\n' + program.source() + LAUNCHES, folder)
    written = {
        name: np.full(buffer.shape, 0xEE, buffer.dtype) for name, buffer in program.buffers.items()
    }
    known = {"llr": llr} | program.constants() | written
    names = [*PARAMETERS["decode"], "places", "frame_error"]
    library.run(*[ctypes.c_void_p(known[name].ctypes.data) for name in names])
    return written


def frame(block: TransportBlock, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    payload = rng.integers(0, 2, block.payload_bits, dtype=np.uint8)
    sent = 1.0 - 2.0 * encode.encode(payload, block)
    llr = 2 * (sent + sigma * rng.standard_normal(sent.shape)) / sigma**2
    return payload, llr.astype(np.float32)


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on this machine")
@pytest.mark.parametrize(
    ("block", "sigma", "iterations"), [(*case, 20) for case in CASES] + [(*CASES[3], 1)]
)
def test_the_kernel_decides_as_torch(
    block: TransportBlock, sigma: float, iterations: int, tmp_path: Path
) -> None:
    payload, llr = frame(block, sigma)
    got = on_cpu(Program(block, iterations), llr, tmp_path)
    constants = {name: torch.from_numpy(value) for name, value in tables(block).items()}
    expected = Decoder(block, iterations, constants)(torch.from_numpy(llr))
    for name in ("payload", "block_errors", "frame_error"):
        np.testing.assert_array_equal(got[name], expected[name].numpy(), err_msg=name)
    # Version 1 alone lacks too many message bits: they stay undecided.
    if iterations == 20 and block.redundancy_version != 1:
        np.testing.assert_array_equal(got["payload"], payload)
    assert bool(got["frame_error"]) == bool((got["payload"] != payload).any())


@pytest.mark.parametrize(("architecture", "rate"), [("sm_80", 0.5), ("sm_90", 0.35)])
def test_the_kernels_compile(architecture: str, rate: float) -> None:
    program = Program(TransportBlock.of(1_944_000, 4, rate), 32)
    source = text("dynamic.cuh") + program.source()
    cubin = compile_source(source, "decode.cu", architecture)
    assert b"decode" in cubin and b"check_frame" in cubin
    assert program.launches["decode"].shared <= 232_448
