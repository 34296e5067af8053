"""The equalizer with and without its preconditioner: time, bit errors, and two rooflines.

`floor_us` is the roofline of the algorithm as a row has it: of its own iterations, DFTs included.
`plain_floor_us` is that of K iterations without a preconditioner, which find as much. Rows of a
grid see the same frames; `ber` is by SNR.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from typing import Annotated, Any

import numpy as np
import torch
from typer import Option

from benchmarks.receiver import roofline
from benchmarks.receiver.stages import Stages, architecture
from benchmarks.report import RESULTS, Output, chosen, say, today, write_results
from otfs_pipeline.frames import source
from otfs_pipeline.receiver.kernels import program
from otfs_pipeline.receiver.kernels.geometry import (
    EACH_CHOICES,
    GROUP,
    STRETCHES,
    Geometry,
    held_samples,
)
from otfs_pipeline.receiver.kernels.platforms import HOPPER, MOST_REGISTERS
from otfs_pipeline.settings import Settings

GRIDS = ("16384x32", "8192x32", "4096x32", "2048x32", "1024x32")
SNRS = (20.0, 25.0)
STEPS = (3, 4, 5, 6, 7)
BLOCKS = (1, 3, 7, 8)


def divisions(settings: Settings) -> Iterator[Geometry]:
    """Those with a preconditioner that fit, with nodes as close as they can be.

    Of seven blocks a period, or eight, two must fit into a multiprocessor.
    """
    held = held_samples(settings)
    for cluster, each in itertools.product(BLOCKS, EACH_CHOICES):
        tried = (Geometry(settings, each, GROUP, cluster, HOPPER, s, True) for s in STRETCHES)
        fitting = (one for one in tried if one.fits and (cluster < 7 or one.resident > 1))
        found = next(fitting, None)
        # x, p, r and a sum in registers.
        if found and each <= held and found.threads * (8 * each + 40) <= MOST_REGISTERS:
            yield found


class Measured:
    """The rows of one grid."""

    def __init__(
        self, settings: Settings, frames: int, rates: roofline.Rates, workers: ProcessPoolExecutor
    ) -> None:
        self._settings, self._rates, self._workers = settings, rates, workers
        self._frames = {
            snr: list(source.pool(partial(source.simulate, settings, snr, 0), frames))
            for snr in SNRS
        }

    def rows(self, geometries: list[Geometry], ber: bool = False) -> Iterator[dict[str, Any]]:
        """Divisions and their iterations, compiled together."""
        made = self._workers.map(program.images, geometries, [architecture()] * len(geometries))
        for geometry, images in zip(geometries, made, strict=True):
            yield self._row(geometry, images, ber)

    def _row(self, geometry: Geometry, images: dict[str, bytes], ber: bool) -> dict[str, Any]:
        stages = Stages(geometry, images)
        frame = self._frames[SNRS[0]][0]
        stages.tensors["samples"] = torch.from_numpy(frame.samples).cuda()
        stages.launch(*program.KERNELS)
        us = stages.microseconds("equalize")
        delays = stages.delays()
        plain = replace(geometry, settings=self._settings, preconditioned=False)
        floor, plain_floor = (
            1e6 * roofline.work(one, delays)["equalize"].seconds(self._rates)
            for one in (geometry, plain)
        )
        found = {
            "preconditioned": geometry.preconditioned,
            "each": geometry.each,
            "cluster": geometry.cluster,
            "threads": geometry.threads,
            "stretch": geometry.stretch,
            "iterations": geometry.iterations,
            "us": us,
            "floor_us": floor,
            "over_floor": us / floor,
            "plain_floor_us": plain_floor,
            "over_plain_floor": us / plain_floor,
        }
        if ber:
            found["ber"] = {f"{snr:g}": self._ber(stages, at) for snr, at in self._frames.items()}
        print(self._settings.grid, found, flush=True)
        return found

    def _ber(self, stages: Stages, frames: list[source.Frame]) -> float:
        wrong = []
        for frame in frames:
            stages.tensors["samples"].copy_(torch.from_numpy(frame.samples))
            stages.launch(*program.KERNELS)
            wrong.append(np.mean(stages.tensors["bits"].cpu().numpy().ravel() != frame.bits))
        return float(np.mean(wrong))


def measure(measured: Measured, settings: Settings) -> Iterator[dict[str, Any]]:
    """Rows of a grid: without the preconditioner, divisions with it, the fastest by iterations."""
    yield from measured.rows([Geometry.of(settings, preconditioned=False)], ber=True)
    tried = list(divisions(settings))
    found = list(measured.rows(tried))
    yield from found
    _, best = min(zip(found, tried, strict=True), key=lambda pair: pair[0]["us"])
    few = [replace(settings, iterations=6 * steps) for steps in STEPS]
    yield from measured.rows([replace(best, settings=one) for one in few], ber=True)


def run(
    grids: Annotated[str, Option(help="Grids, comma-separated.")] = ",".join(GRIDS),
    frames: Annotated[int, Option(help="At each SNR.")] = 8,
    output: Output = RESULTS / "otfs_equalizer.json",
) -> None:
    """Measure the equalizer with and without its preconditioner."""
    rates = roofline.measure()
    result = {
        "date": today(),
        "device": torch.cuda.get_device_name(),
        "fma_per_s": rates.fma,
        "frames": frames,
    }
    by_grid: dict[str, list[dict[str, Any]]] = {}
    context = get_context("spawn")
    with ProcessPoolExecutor(mp_context=context) as workers:
        for grid in chosen(grids, GRIDS, "--grids"):
            say(grid)
            settings = Settings(grid=grid)
            for row in measure(Measured(settings, frames, rates, workers), settings):
                by_grid.setdefault(grid, []).append(row)
                write_results(output, result | {"grids": by_grid})
