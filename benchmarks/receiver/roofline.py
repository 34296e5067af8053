"""Operations and bytes of a frame, counted, against what the device was measured to do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from otfs_pipeline.link import frame
from otfs_pipeline.receiver.kernels.geometry import Geometry

_FMA = """
extern "C" __global__ void fma_rate(float* out) {
    float a[16];
    for (int i = 0; i < 16; i++) a[i] = threadIdx.x + i;
    float x = 1.0f + blockIdx.x * 1e-9f, y = out[0];
    for (int step = 0; step < 4096; step++)
        for (int i = 0; i < 16; i++) a[i] = a[i] * x + y;
    float sum = 0;
    for (int i = 0; i < 16; i++) sum += a[i];
    if (sum == 1.0f) out[1] = sum;
}
"""


@dataclass(frozen=True)
class Rates:
    """Fused multiply-adds and bytes a second."""

    fma: float
    copy: float


@dataclass(frozen=True)
class Work:
    """Fused multiply-adds and bytes to and from memory."""

    fma: float
    bytes: float

    def seconds(self, rates: Rates) -> float:
        """No program can be faster: the slower of the two."""
        return max(self.fma / rates.fma, self.bytes / rates.copy)


def measure() -> Rates:
    """Rates of the current device: 256 MiB copied, and a chain of FMAs in registers."""
    source = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy = 2 * source.numel() / seconds(lambda: target.copy_(source))
    kernel = torch.cuda._compile_kernel(_FMA, "fma_rate")
    out = torch.zeros(2, device="cuda")
    blocks = 8 * torch.cuda.get_device_properties(0).multi_processor_count
    taken = seconds(lambda: kernel((blocks, 1, 1), (256, 1, 1), (out,)))
    return Rates(blocks * 256 * 16 * 4096 / taken, copy)


def seconds(run: Callable[[], object], repeats: int = 20) -> float:
    """Median seconds of `run` by events."""
    run()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1e-3)
    return float(torch.tensor(times).median())


def work(geometry: Geometry, delays: int) -> dict[str, Work]:
    """By kernel, for a channel of `delays` delay taps; what padding and halos add is no work.

    A complex multiply-add is four. A product with H or Hᴴ: one a delay and sample; the right side
    takes one, an iteration two, the last one only one. Vectors of an iteration: x, r, p and three
    energies, twelve a sample. Zak transform: N a bin. The iterations are those that `geometry` has;
    with a preconditioner each takes two DFTs of a period more, 8/3 n log2 n each (split radix), and
    there is one for the channel.
    """
    s = geometry.settings
    data, k = frame.data_symbols(s), geometry.iterations
    window = s.window_delays * s.n
    products = 4 * delays * geometry.length * s.n * 2 * k
    if geometry.preconditioned:
        transform = 8 / 3 * geometry.length * math.log2(geometry.length)
        products += s.n * transform * s.antennas + s.n * k * 2 * transform
    table = 8 * (2 * s.doppler_range + 1) * s.window_delays
    return {
        "read_window": Work(4 * s.n * window, 8 * window + table),
        "select_taps": Work(0, 2 * table),
        "equalize": Work(products + 12 * k * data, 8 * geometry.length * s.n + 8 * data + table),
        "demap": Work(4 * s.n * data, data * (8 + 8 + 5 * s.bits_per_symbol)),
    }
