"""The equalizer for GPUs without clusters, on one that has them: its bits, bit error rate and time.

`same_bits`: whether it gives, divided as with clusters, what it gives with them. Rows are divisions
among threads and blocks, that of `Geometry.of` first; microseconds are those of the equalizer by
events, and `times` how many times those with clusters. Both bit error rates are of one frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import torch
from typer import Option

from benchmarks.receiver.stages import Stages, architecture
from benchmarks.report import RESULTS, Output, chosen, today, write_results
from otfs_pipeline.frames import source
from otfs_pipeline.receiver.kernels import program
from otfs_pipeline.receiver.kernels.geometry import (
    EACH_CHOICES,
    GROUP,
    STRETCHES,
    Geometry,
    held_samples,
    iteration_us,
)
from otfs_pipeline.receiver.kernels.platforms import HOPPER
from otfs_pipeline.settings import Settings

GRIDS = ("16384x32", "4096x32", "1024x32")
SNR = 20.0
WITHOUT = replace(HOPPER, clusters=False)


def launched(geometry: Geometry, samples: torch.Tensor) -> Stages:
    """The kernels, after a frame."""
    stages = Stages(geometry, program.images(geometry, architecture()))
    stages.tensors["samples"] = samples
    stages.launch(*program.KERNELS)
    return stages


def divisions(settings: Settings) -> Iterator[Geometry]:
    """Those to be tried, that of `Geometry.of` first."""
    default = Geometry.of(settings, WITHOUT)
    yield default
    held = held_samples(settings)
    for each in EACH_CHOICES:
        for blocks in (1, 2, 3, 4, 7):
            for stretch in STRETCHES[:2]:
                geometry = Geometry(settings, each, GROUP, blocks, WITHOUT, stretch)
                if each <= held and geometry.fits and geometry != default:
                    yield geometry
                    break


def measure(grid: str) -> dict[str, Any]:
    """One grid, on one frame."""
    settings = Settings(grid=grid)
    frame = source.simulate(settings, SNR, 0, 0)
    samples = torch.from_numpy(frame.samples).cuda()

    def ber(stages: Stages) -> float:
        return float(np.mean(stages.tensors["bits"].cpu().numpy().ravel() != frame.bits))

    # Without a preconditioner, which GPUs without clusters don't have.
    plain = Geometry.of(settings, preconditioned=False)
    with_clusters = launched(plain, samples)
    alike = launched(replace(plain, platform=WITHOUT), samples)
    same = all(
        torch.equal(with_clusters.tensors[name], alike.tensors[name])
        for name in ("symbols", "llr", "bits", "mu", "variance")
    )
    least = with_clusters.microseconds("equalize")
    rows = []
    for geometry in divisions(settings):
        stages = launched(geometry, samples)
        # Its mailbox must be empty each time.
        both = stages.microseconds("read_window", "equalize")
        us = both - stages.microseconds("read_window")
        rows.append(
            {
                "each": geometry.each,
                "blocks": geometry.cluster,
                "threads": geometry.threads,
                "stretch": geometry.stretch,
                "us": us,
                "times": us / least,
                "predicted_us": settings.cg_iterations * iteration_us(geometry),
                "ber": ber(stages),
            }
        )
        print(grid, {k: round(v, 6) for k, v in rows[-1].items()}, flush=True)
    return {
        "grid": grid,
        "same_bits": same,
        "with_clusters_us": least,
        "with_clusters_ber": ber(with_clusters),
        "rows": rows,
    }


def run(
    grids: Annotated[str, Option(help="Grids, comma-separated.")] = ",".join(GRIDS),
    output: Output = RESULTS / "otfs_mailbox.json",
) -> None:
    """Measure the equalizer without clusters, beside that with clusters."""
    result = {"date": today(), "device": torch.cuda.get_device_name(), "snr_db": SNR}
    measured = []
    for grid in chosen(grids, GRIDS, "--grids"):
        measured.append(measure(grid))
        write_results(output, result | {"grids": measured})
