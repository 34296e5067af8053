"""The equalizer's iterations in Triton, beside the CUDA kernel on the same frame.

A Triton program can neither keep a Doppler period nor wait for others, so an iteration is two
launches, one for each product; everything between two products is fused into them. All launches of
a frame are one CUDA graph, each begun while the one before it ends (`chain.py`). A program's
samples are one interval of the coefficients, given by value and slope; a complex number is one
int64.

Triton's time is that of the iterations and their right side only. The CUDA kernel's includes the
coefficients, the pilot's response and the moments for demap. So `ratio`, Triton's over CUDA's, is a
lower bound. The differences are the largest ones of x̂ over its RMS, from the float64 receiver's.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl

from benchmarks.receiver import roofline
from benchmarks.receiver.stages import Stages
from benchmarks.report import RESULTS, Output, today, write_results
from otfs_pipeline.frames import source
from otfs_pipeline.link import banded, frame, reference
from otfs_pipeline.link.channel import Taps
from otfs_pipeline.link.estimate import Estimate
from otfs_pipeline.link.zak import zak
from otfs_pipeline.receiver.kernels import program
from otfs_pipeline.receiver.kernels.geometry import Geometry
from otfs_pipeline.settings import Settings
from parse_runtime.kernels.cuda.chain import OPTIONS, release, wait

# Samples a program and its warps.
DIVISIONS = ((128, 1), (128, 2), (256, 2), (256, 4), (512, 4), (512, 8), (1024, 8))
SNR, REPLAYS, FRAMES = 20.0, 50, 10
# Ten times what interpolation over 1024 samples leaves after 28 iterations.
TOLERANCE = 1e-3


@triton.jit
def read(at):
    word = tl.load(at)
    re, im = word.to(tl.int32), (word >> 32).to(tl.int32)
    return re.to(tl.float32, bitcast=True), im.to(tl.float32, bitcast=True)


@triton.jit
def write(at, re, im):
    low = re.to(tl.int32, bitcast=True).to(tl.int64) & 0xFFFFFFFF
    tl.store(at, low | im.to(tl.int32, bitcast=True).to(tl.int64) << 32)


@triton.jit
def total(parts, PARTS: tl.constexpr):
    return tl.sum(tl.load(parts + tl.program_id(1) * PARTS + tl.arange(0, PARTS)))


@triton.jit
def product(vector, nodes, shifts, count, BLOCK: tl.constexpr):
    """Σ_s (value_s + part·slope_s) vector[n + shift_s] for this program's samples n."""
    part = tl.arange(0, BLOCK).to(tl.float32)
    re, im = tl.zeros_like(part), tl.zeros_like(part)
    node = nodes + (tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)) * count * 2
    for slot in tl.range(count, loop_unroll_factor=4):
        value_re, value_im = read(node + 2 * slot)
        slope_re, slope_im = read(node + 2 * slot + 1)
        x_re, x_im = read(vector + tl.load(shifts + slot))
        c_re, c_im = value_re + part * slope_re, value_im + part * slope_im
        # One after the other: each is a fused multiply-add.
        re += c_re * x_re
        re -= c_im * x_im
        im += c_re * x_im
        im += c_im * x_re
    return re, im


@triton.jit
def forward(
    r, p, y, row, nodes, shifts, count, noise, before, energy, curvature,
    BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """p = r + βp and, as Hp is Hr plus β times the one before, y = Hr + βy."""
    release()
    wait()
    block, period = tl.program_id(0), tl.program_id(1)
    at = period * row + block * BLOCK + tl.arange(0, BLOCK)
    re, im = product(r + at, nodes, shifts, count, BLOCK)
    beta = total(energy, PARTS) / total(before, PARTS)
    r_re, r_im = read(r + at)
    p_re, p_im = read(p + at)
    y_re, y_im = read(y + at)
    p_re, p_im = r_re + beta * p_re, r_im + beta * p_im
    y_re, y_im = re + beta * y_re, im + beta * y_im
    write(p + at, p_re, p_im)
    write(y + at, y_re, y_im)
    part = y_re * y_re + y_im * y_im + tl.load(noise) * (p_re * p_re + p_im * p_im)
    tl.store(curvature + period * PARTS + block, tl.sum(part))


@triton.jit
def adjoint(
    r, p, x, y, row, nodes, shifts, count, noise, energy, curvature, after, begin, end,
    FIRST: tl.constexpr, LAST: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """x += αp and, unless it is the LAST, r -= α(Hᴴy + σ²p); the FIRST makes r = Hᴴy and x = 0."""
    release()
    wait()
    block, period = tl.program_id(0), tl.program_id(1)
    j = block * BLOCK + tl.arange(0, BLOCK)
    at = period * row + j
    if not LAST:
        re, im = product(y + at, nodes, shifts, count, BLOCK)
        data = (begin <= j) & (j < end)
        re, im = tl.where(data, re, 0.0), tl.where(data, im, 0.0)
    if FIRST:
        write(x + at, tl.zeros_like(re), tl.zeros_like(im))
    else:
        alpha = total(energy, PARTS) / total(curvature, PARTS)
        p_re, p_im = read(p + at)
        x_re, x_im = read(x + at)
        write(x + at, x_re + alpha * p_re, x_im + alpha * p_im)
        if not LAST:
            r_re, r_im = read(r + at)
            sigma2 = tl.load(noise)
            re, im = r_re - alpha * (re + sigma2 * p_re), r_im - alpha * (im + sigma2 * p_im)
    if not LAST:
        write(r + at, re, im)
        tl.store(after + period * PARTS + block, tl.sum(re * re + im * im))


class TritonEqualizer:
    """The steps on one frame, by programs of `block` samples, with `known` taps and noise.

    `right` [Q]: the received samples without the pilot's response.
    """

    def __init__(
        self, settings: Settings, right: np.ndarray, known: Estimate, block: int, warps: int,
        device: str = "cuda",
    ) -> None:  # fmt: skip
        s = self._s = settings
        # Samples of a period are counted as in `equalize.cu`.
        skipped = s.guard_bins // 2 + 1 + s.first_tap
        self._data = -s.first_tap, s.m - s.guard_bins // 2 - skipped
        blocks = triton.cdiv(s.m - skipped, block)
        parts = triton.next_power_of_2(blocks)
        self._grid = blocks, s.n
        self._options = {"BLOCK": block, "PARTS": parts, "num_warps": warps} | OPTIONS
        # Zeros around every period, as many as taps reach over.
        pad = triton.cdiv(s.window_delays, 16) * 16
        self._row, j = pad + blocks * block, np.arange(pad + blocks * block)
        n = s.pilot_bin[0] + skipped + s.m * np.arange(s.n)[:, None] + j
        self._sample = n % s.q
        vectors = np.zeros((5, n.size + 2 * pad), np.complex64)
        vectors[0, pad:-pad] = np.where(j < s.m - skipped, right[self._sample], 0).ravel()
        self._vectors = torch.from_numpy(vectors).to(device).view(torch.int64)[:, pad:]

        taps, first = known.taps, n[:, : blocks * block : block, None]
        delays, slot = np.unique(taps.delay, return_inverse=True)
        h = np.zeros((2 * s.doppler_range + 1, delays.size), np.complex128)
        h[taps.doppler + s.doppler_range, slot] = taps.value

        def coefficients(turn: np.ndarray) -> np.ndarray:
            b = np.arange(-s.doppler_range, s.doppler_range + 1)
            return np.einsum("bd,...db->...d", h, np.exp(2j * np.pi / s.q * turn[..., None] * b))

        def nodes(turn: np.ndarray) -> np.ndarray:
            value, slope = coefficients(turn), coefficients(turn + block) - coefficients(turn)
            return np.stack([value, slope / block], axis=-1).astype(np.complex64)

        # c_a turns with n-a. H wants it at n, Hᴴ at n+a.
        back = nodes(first + 0 * delays).conj()
        self._products = [
            (
                torch.from_numpy(table).to(device).view(torch.int64),
                torch.from_numpy(shifts.astype(np.int32)).to(device),
                delays.size,
            )
            for table, shifts in ((nodes(first - delays), -delays), (back, delays))
        ]
        self._noise = torch.tensor(known.noise_variance, dtype=torch.float32, device=device)
        self._energy, self._curvature = torch.zeros(
            2, s.cg_iterations + 2, s.n, parts, device=device
        )
        # So that β of the first step is 0.
        self._energy[0] = torch.inf

    def __call__(self) -> int:
        """Queues a frame's launches; returns how many."""
        received, r, p, x, y = self._vectors
        energy, curvature, last = self._energy, self._curvature, self._s.cg_iterations
        ahead, back = self._products
        for k in range(last + 1):
            if k:
                forward[self._grid](
                    r, p, y, self._row, *ahead, self._noise, energy[k - 1], energy[k],
                    curvature[k], **self._options,
                )  # fmt: skip
            adjoint[self._grid](
                r, p, x, y if k else received, self._row, *back, self._noise, energy[k],
                curvature[k], energy[k + 1], *self._data, FIRST=k == 0, LAST=k == last,
                **self._options,
            )  # fmt: skip
        return 2 * last + 1

    def equalized(self) -> np.ndarray:
        """x̂ in time [Q], data samples only."""
        x = self._vectors[3].view(torch.complex64)[: self._sample.size].cpu().numpy()
        out, data = np.zeros(self._s.q, np.complex64), slice(*self._data)
        out[self._sample[:, data]] = x.reshape(self._sample.shape)[:, data]
        return out

    def microseconds(self) -> float:
        """One frame, of a graph of several: what the graph's own launch costs does not count."""
        self()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
            for _ in range(FRAMES):
                self()
        return roofline.seconds(graph.replay, REPLAYS) / FRAMES * 1e6


def measure(settings: Settings) -> dict[str, Any]:
    """Both on one frame; SystemExit where Triton's result is off."""
    s, sent = settings, source.simulate(settings, SNR, 0, 0)
    # The same iterations: without a preconditioner.
    stages = Stages(Geometry.of(settings, preconditioned=False))
    tensors = stages.tensors
    tensors["samples"] = torch.from_numpy(sent.samples).cuda()
    stages.launch(*program.KERNELS)
    table = tensors["taps_table"].cpu().numpy().astype(np.complex128)
    b, a = np.nonzero(table)
    taps = Taps(table[b, a], a + s.first_tap, b - s.doppler_range)
    known = Estimate(taps, float(tensors["noise_variance"]))
    exact = reference.receive(sent.samples, s, known, periods=True)
    right = sent.samples - reference.pilot_response(s, banded.bands(taps, s.q))
    expected = exact.symbols * exact.mu

    def judged(equalized: np.ndarray) -> dict[str, float]:
        tensors["equalized"].copy_(torch.from_numpy(equalized))
        stages.launch("demap")
        bits = tensors["bits"].cpu().numpy().ravel()
        error = frame.extract(zak(equalized, s.m, s.n), s) - expected
        off = np.abs(error).max() / np.sqrt(np.mean(np.abs(expected) ** 2))
        return {"max_relative_difference": float(off), "ber": float(np.mean(bits != sent.bits))}

    cuda = judged(tensors["equalized"].cpu().numpy())
    rows = []
    for block, warps in DIVISIONS:
        equalizer = TritonEqualizer(s, right, known, block, warps)
        launches, found = equalizer(), judged(equalizer.equalized())
        if not found["max_relative_difference"] < TOLERANCE:
            raise SystemExit(f"Triton, {block} samples and {warps} warps a program: {found}")
        rows.append({"block": block, "warps": warps, "us": equalizer.microseconds()} | found)
        print(rows[-1], flush=True)
    best, cuda_us = min(rows, key=lambda row: row["us"]), stages.microseconds("equalize")
    return {
        "grid": s.grid,
        "iterations": s.cg_iterations,
        "delays": np.unique(taps.delay).size,
        "triton_us": best["us"],
        "cuda_us": cuda_us,
        "ratio": best["us"] / cuda_us,
        "launches": launches,
        "max_relative_difference": best["max_relative_difference"],
        "tolerance": TOLERANCE,
        "ber": best["ber"],
        "cuda_max_relative_difference": cuda["max_relative_difference"],
        "cuda_ber": cuda["ber"],
        "divisions": rows,
    }


def run(output: Output = RESULTS / "otfs_triton.json") -> None:
    """Measure the equalizer's iterations in Triton, beside the CUDA kernel."""
    about = {"date": today(), "device": torch.cuda.get_device_name(), "triton": triton.__version__}
    result = about | measure(Settings(grid="16384x32"))
    write_results(output, result)
    print(json.dumps(result, indent=1))
