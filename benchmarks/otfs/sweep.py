"""Ways to divide a frame among blocks and threads, and iterations: time of the equalizer.

    python -m benchmarks.otfs.sweep [GRID]

`Geometry.of` chooses by this table. A row: samples a thread, delays a group, blocks a cluster,
threads a block, iterations, microseconds, BER of one frame at 20 dB.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from benchmarks.otfs.stages import Stages
from otfs_pipeline import source
from otfs_pipeline.kernels import program
from otfs_pipeline.kernels.geometry import SHARED_LIMIT, Geometry
from otfs_pipeline.settings import Settings


def main() -> None:
    # Fewer taps than by default: wide groups take more shared memory.
    settings = Settings(grid=sys.argv[1] if len(sys.argv) > 1 else "16384x32", max_taps=128)
    frame = source.simulate(settings, 20.0, 0, 0)
    samples = torch.from_numpy(frame.samples).cuda()
    print("each group cluster threads   K      us  BER")
    for geometry in divisions(settings):
        stages = Stages(geometry)
        stages.tensors["samples"] = samples
        stages.launch(*program.KERNELS)
        ber = np.mean(stages.tensors["bits"].cpu().numpy().ravel() != frame.bits)
        time = stages.microseconds("equalize")
        print(
            f"{geometry.each:4} {geometry.group:5} {geometry.cluster:7} {geometry.threads:7}"
            f" {geometry.settings.iterations:3} {time:7.1f}  {ber:.3e}",
            flush=True,
        )


def divisions(settings: Settings) -> Iterator[Geometry]:
    """Those that fit, then the default one with other iteration counts."""
    for each in (7, 9, 11, 13, 15):
        for group in (1, 2, 3, 4):
            for cluster in (3, 4):
                geometry = Geometry(settings, each, group, cluster)
                if geometry.shared_bytes <= SHARED_LIMIT and geometry.threads <= 1024:
                    yield geometry
    for iterations in (10, 16, 20, 24, 32):
        yield Geometry.of(replace(settings, iterations=iterations))


if __name__ == "__main__":
    main()
