"""Stage times, roofline, baselines and BER of one grid on the GPU, with torch.

    python -m benchmarks.receiver.stages GRID SNR FRAMES

Prints one JSON object; times in microseconds, from events around CUDA graphs of 20 launches, so
that a launch's own cost does not count.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.receiver import loss, roofline
from benchmarks.receiver.baselines import Call, CsrReceiver, DelayDopplerReceiver, banded, captured
from otfs_pipeline.frames import source
from otfs_pipeline.receiver.kernels import program
from otfs_pipeline.receiver.kernels.geometry import Geometry
from otfs_pipeline.settings import Settings

REPEATS = 20
# The CSR form asks the host how many delays were found, so it cannot be a graph.
BASELINES: tuple[tuple[str, Callable[[Settings], Call], bool], ...] = (
    ("torch_eager_banded", banded, False),
    ("torch_graph_banded", banded, True),
    ("torch_eager_cusparse_csr", CsrReceiver, False),
    ("torch_eager_delay_doppler", DelayDopplerReceiver, False),
    ("torch_graph_delay_doppler", DelayDopplerReceiver, True),
)


def architecture() -> str:
    """Of the current device, as the compiler names it."""
    major, minor = torch.cuda.get_device_capability()
    return f"sm_{major}{minor}"


class Stages:
    """The kernels of a grid with their buffers."""

    def __init__(self, geometry: Geometry, images: dict[str, bytes] | None = None) -> None:
        torch.cuda.synchronize()
        images = images or program.images(geometry, architecture())
        self.program = program.Program(geometry, images)
        self.tensors = {
            name: torch.empty(buffer.shape, dtype=getattr(torch, buffer.dtype), device="cuda")
            for name, buffer in program.buffers(geometry).items()
        }

    def launch(self, *names: str) -> None:
        """Queue kernels on torch's stream."""
        stream = torch.cuda.current_stream().cuda_stream
        addresses = {name: tensor.data_ptr() for name, tensor in self.tensors.items()}
        for name in names:
            self.program.launch(name, addresses, stream)

    def delays(self) -> int:
        """Delays that a tap was found at."""
        return int((self.tensors["taps_table"].abs().sum(0) > 0).sum())

    def microseconds(self, *names: str) -> float:
        """One pass through `names`."""
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(REPEATS):
                self.launch(*names)
        return roofline.seconds(graph.replay) / REPEATS * 1e6


def measure(grid: str, snr: float, frames: int) -> dict[str, Any]:
    """Everything of a grid."""
    settings = Settings(grid=grid)
    geometry = Geometry.of(settings)
    stages = Stages(geometry)
    made = list(source.pool(lambda index: source.simulate(settings, snr, 0, index), frames))
    samples = [torch.from_numpy(item.samples).cuda() for item in made]
    stages.tensors["samples"] = samples[0]
    stages.launch(*program.KERNELS)
    groups = stages.tensors["groups"].cpu().numpy()
    delays = stages.delays()
    rates = roofline.measure()
    times = {name: stages.microseconds(name) for name in program.KERNELS}
    floor = {k: w.seconds(rates) * 1e6 for k, w in roofline.work(geometry, delays).items()}
    whole = stages.microseconds(*program.KERNELS)
    plain = roofline.work(replace(geometry, preconditioned=False), delays)["equalize"]
    # The stages wait for one another: their floors add up.
    least = sum(floor.values())
    return {
        "grid": grid,
        "stage_us": times,
        "compute_us": whole,
        "roofline_us": floor,
        # Of the iterations that would find as much without a preconditioner.
        "plain_equalize_roofline_us": plain.seconds(rates) * 1e6,
        "iterations": geometry.iterations,
        "roofline_ms": least / 1e3,
        "compute_over_roofline": whole / least,
        "rates": {"fma_per_s": rates.fma, "copy_bytes_per_s": rates.copy},
        "delay_taps": delays,
        "taps": int(stages.tensors["taps"]),
        "groups": int(groups[0]),
        "ber_perfect": _perfect(stages, settings, snr, made, samples),
        "baselines": {
            name: _baseline(functools.partial(form, settings), samples[0], made[0].bits, graph)
            for name, form, graph in BASELINES
        },
    }


def _perfect(
    stages: Stages,
    settings: Settings,
    snr: float,
    made: list[source.Frame],
    samples: list[torch.Tensor],
) -> float:
    """BER with the taps and noise variance that the frames were simulated with."""
    wrong = bits = 0
    for index, (item, received) in enumerate(zip(made, samples, strict=True)):
        stages.tensors["samples"] = received
        taps, starts = _true_taps(settings, index)
        stages.tensors["taps_table"].copy_(torch.from_numpy(taps))
        stages.tensors["groups"].copy_(torch.from_numpy(starts))
        stages.tensors["noise_variance"].fill_(10 ** (-snr / 10))
        stages.launch("equalize", "demap")
        got = stages.tensors["bits"].cpu().numpy().reshape(-1)
        wrong, bits = wrong + int(np.count_nonzero(got != item.bits)), bits + got.size
    return wrong / bits


def _true_taps(settings: Settings, index: int) -> tuple[np.ndarray, np.ndarray]:
    """The window's part of frame `index`'s channel, and its delay groups as `select_taps` has them.

    The generator is that of `source.simulate`.
    """
    geometry = Geometry.of(settings)
    taps = loss.window(settings, np.random.default_rng([0, index, 1]))
    a, b = taps.delay - settings.first_tap, taps.doppler + settings.doppler_range
    table = np.zeros((2 * settings.doppler_range + 1, settings.window_delays), np.complex64)
    # Below -60 dB a tap is nothing beside any noise here.
    heard = np.abs(taps.value) > 1e-3
    table[b[heard], a[heard]] = taps.value[heard]
    delays = np.unique(a[heard])[: geometry.delays]
    groups = []
    for index, delay in enumerate(delays):
        last = groups[-1] if groups else None
        if last is None or delay != delays[index - 1] + 1 or index - last[1] == geometry.group:
            groups.append((delay + settings.first_tap, index))
    packed = np.zeros(1 + 2 * (geometry.delays + 1), np.int32)
    packed[0] = len(groups)
    packed[1 : 1 + 2 * len(groups)] = np.ravel(groups)
    packed[2 + 2 * len(groups)] = delays.size
    return table, packed


def _baseline(
    make: Callable[[], Call], samples: torch.Tensor, sent: np.ndarray, graph: bool
) -> dict[str, float]:
    with torch.no_grad():
        call = make()
        if graph:
            run, bits = captured(call, samples)
            run()
        else:

            def run() -> None:
                call(samples)

            bits = call(samples)["bits"]
        wrong = float(np.mean(bits.cpu().numpy().reshape(-1) != sent))
        return {"us": roofline.seconds(run, 5) * 1e6, "ber_of_first_frame": wrong}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))))
