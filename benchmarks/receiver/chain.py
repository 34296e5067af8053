"""Times of all kernels from a slot's waveform to decoded payload, on the GPU, with torch.

    python -m benchmarks.receiver.chain LINK

LINK are settings as JSON. Prints one JSON object: microseconds of each kernel, from events around
CUDA graphs of 20 launches, and of all of them in turn.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.receiver import roofline
from foundryc.cuda.kernels import Kernel, architecture
from otfs_pipeline.front.signature import FRONT, waveform_span
from otfs_pipeline.front.track import Tracker
from otfs_pipeline.receiver.kernels import front
from otfs_pipeline.receiver.kernels.frame import KernelFrame, KernelWaveform, tables
from otfs_pipeline.receiver.kernels.platforms import platform
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.impair import Impairments
from otfs_pipeline.waveform.simulate import Simulation

REPEATS = 20


@dataclass(frozen=True)
class Noted:
    """A kernel that notes how it was launched last."""

    kernel: Kernel
    launched: dict[str, tuple[Any, ...]]

    def launch(self, *arguments: Any) -> None:
        """As `Kernel.launch`."""
        self.launched[self.kernel.name] = (self.kernel, *arguments)
        self.kernel.launch(*arguments)


def measure(link: Settings) -> dict[str, float]:
    """Of one burst at 20 dB."""
    launched: dict[str, tuple[Any, ...]] = {}

    def load(image: bytes, name: str, shared: int = 0) -> Noted:
        return Noted(Kernel.load(image, name, shared), launched)

    here = platform(architecture())
    of_front = on_device(front.constants(link))
    of_front["tracked"] = torch.zeros(front.tracked(link).shape, dtype=torch.float64, device="cuda")
    frame = KernelFrame(link, on_device(tables(link)), here, load)
    receive = KernelWaveform(link, of_front, frame, here, load)
    waveform = torch.from_numpy(_burst(link)).cuda()
    doubtful = torch.zeros((), dtype=torch.uint8, device="cuda")
    results = receive(waveform, doubtful)
    if results["front"].flatten()[FRONT.index("given")] != 1:
        sys.exit("the front end gave no frame on")
    times = {name: _microseconds([call]) for name, call in launched.items()}
    return times | {"all": _microseconds(list(launched.values()))}


def _burst(link: Settings) -> np.ndarray:
    made = Simulation(link, 1, impairments=Impairments(20.0, 3.3, 900.0))
    tracker = Tracker(link, waveform_span(link))
    stream = np.concatenate(list(made.pieces(range(1))))
    for bursts in (tracker.push(stream), tracker.finish()):
        for burst in bursts:
            return burst.samples.copy()
    sys.exit("no burst was found")


def on_device(values: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value).cuda() for name, value in values.items()}


def _microseconds(calls: Sequence[tuple[Any, ...]]) -> float:
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(REPEATS):
            for kernel, blocks, threads, arguments, _, shared in calls:
                here = torch.cuda.current_stream().cuda_stream
                kernel.launch(blocks, threads, arguments, here, shared)
    return roofline.seconds(graph.replay) / REPEATS * 1e6


if __name__ == "__main__":
    print(json.dumps(measure(Settings(**json.loads(sys.argv[1])))))
