"""Ways to divide a frame among blocks and threads: times of the equalizer, and of all stages.

A row: samples a thread, delays a group, blocks a cluster, threads a block, clusters that the GPU
holds at once (a period is one), iterations, microseconds, by how much the worst symbol differs from
the default's, BER of one frame at 20 dB. First `each` and `cluster`, then `group` with the fastest
of them, and other iteration counts. The last lines of a grid are the stages of the default and the
fastest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from typing import Annotated

import numpy as np
import torch
from typer import Option

from benchmarks.receiver import roofline
from benchmarks.receiver.stages import Stages, architecture
from benchmarks.report import RESULTS, Output, chosen, today, write_results
from foundryc.cuda.driver import bindings, call
from otfs_pipeline.frames import source
from otfs_pipeline.receiver.kernels import program
from otfs_pipeline.receiver.kernels.geometry import Geometry, held_samples
from otfs_pipeline.settings import Settings

GRIDS = ("16384x32", "8192x32", "4096x32", "2048x32", "1024x32")
ITERATIONS = (12, 20, 24, 32)
SNR = 20.0
HEAD = "each group cluster threads at_once   K      us       off       BER"


@dataclass(frozen=True)
class Row:
    """What was measured of a division; see above."""

    each: int
    group: int
    cluster: int
    threads: int
    at_once: int
    iterations: int
    us: float
    off: float
    ber: float


class Sweep:
    """The divisions of one grid, on one frame."""

    def __init__(
        self,
        settings: Settings,
        frame: source.Frame,
        workers: ProcessPoolExecutor,
        rates: roofline.Rates,
    ) -> None:
        self._rates = rates
        self._workers = workers
        self._frame = frame
        self._samples = torch.from_numpy(frame.samples).cuda()
        self.default = Geometry.of(settings, preconditioned=False)
        self._symbols: torch.Tensor | None = None
        self._images: dict[Geometry, dict[str, bytes]] = {}
        self.rows: list[Row] = []

    def run(self) -> None:
        """Measures all divisions."""
        default = self.default
        self._measure([default])
        self._measure(list(divisions(default)))
        (best,) = self.fastest(1)
        self._measure([replace(best, group=group) for group in (1, 2, 3, 6, 8)])
        counts = [replace(default.settings, iterations=k) for k in ITERATIONS]
        self._measure([replace(default, settings=settings) for settings in counts])

    def stages(self, geometry: Geometry) -> dict[str, float]:
        """Microseconds by kernel and of all in one launch, and that over the roofline."""
        stages = self._stages(geometry)
        times = {name: stages.microseconds(name) for name in program.KERNELS}
        whole = stages.microseconds(*program.KERNELS)
        work = roofline.work(geometry, stages.delays()).values()
        least = 1e6 * sum(part.seconds(self._rates) for part in work)
        return times | {"whole": whole, "over_roofline": whole / least}

    def fastest(self, count: int) -> list[Geometry]:
        """Divisions that took the least time, at the default's iterations."""
        settings = self.default.settings
        same = [row for row in self.rows if row.iterations == settings.cg_iterations]
        return [
            Geometry(settings, row.each, row.group, row.cluster)
            for row in sorted(same, key=lambda row: row.us)[:count]
        ]

    def report(self) -> dict[str, object]:
        """Rows, and the stages of the default and of the fastest, printed too."""
        print(self.default.settings.grid)
        times = {}
        for name, geometry in (("default", self.default), ("fastest", *self.fastest(1))):
            times[name] = self.stages(geometry)
            division = (geometry.each, geometry.group, geometry.cluster)
            shown = "  ".join(f"{key} {value:.2f}" for key, value in times[name].items())
            print(f"{name} {'/'.join(map(str, division))}: {shown}", flush=True)
        rows = [asdict(row) for row in self.rows]
        return {"grid": self.default.settings.grid, "stages": times, "rows": rows}

    def _stages(self, geometry: Geometry) -> Stages:
        stages = Stages(geometry, self._images[geometry])
        stages.tensors["samples"] = self._samples
        stages.launch(*program.KERNELS)
        return stages

    def _measure(self, geometries: list[Geometry]) -> None:
        print(f"{self.default.settings.grid}\n{HEAD}")
        images = self._workers.map(program.images, geometries, [architecture()] * len(geometries))
        for geometry, image in zip(geometries, images, strict=True):
            self._images[geometry] = image
            stages = self._stages(geometry)
            bits = stages.tensors["bits"].cpu().numpy().ravel()
            symbols = stages.tensors["symbols"].clone()
            if self._symbols is None:
                self._symbols = symbols
            row = Row(
                geometry.each,
                geometry.group,
                geometry.cluster,
                geometry.threads,
                at_once(geometry, stages.program),
                geometry.settings.cg_iterations,
                stages.microseconds("equalize"),
                float((symbols - self._symbols).abs().max()),
                float(np.mean(bits != self._frame.bits)),
            )
            self.rows.append(row)
            print(
                f"{row.each:4} {row.group:5} {row.cluster:7} {row.threads:7}"
                f" {row.at_once:7} {row.iterations:3} {row.us:7.1f} {row.off:9.1e} {row.ber:9.3e}",
                flush=True,
            )


def divisions(default: Geometry) -> Iterator[Geometry]:
    """Those that fit, with the default's `group`; clusters of 7 are of blocks that share an SM."""
    for each in (3, 5, 9, 11, 13, 15, 21):
        for cluster in (2, 3, 4, 7):
            geometry = replace(default, each=each, cluster=cluster)
            if geometry != default and fits(geometry) and (cluster < 7 or geometry.resident == 2):
                yield geometry


def fits(geometry: Geometry) -> bool:
    """Whether a block has room and its neighbours hold what its taps reach."""
    return (
        geometry.fits
        and geometry.threads >= 64
        and geometry.span >= geometry.halo
        and geometry.each <= held_samples(geometry.settings)
    )


def at_once(geometry: Geometry, loaded: program.Program) -> int:
    """Clusters of the equalizer that the device holds at the same time."""
    driver = bindings()
    launch = loaded.launches["equalize"]
    config, attribute = driver.CUlaunchConfig(), driver.CUlaunchAttribute()
    config.gridDimX, config.gridDimY, config.gridDimZ = launch.blocks, 1, 1
    config.blockDimX, config.blockDimY, config.blockDimZ = launch.threads, 1, 1
    config.sharedMemBytes = launch.shared
    attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
    size = attribute.value.clusterDim
    size.x, size.y, size.z = geometry.cluster, 1, 1
    config.attrs, config.numAttrs = [attribute], 1
    return int(call("cuOccupancyMaxActiveClusters", loaded.kernels["equalize"].handle, config))


def run(
    grids: Annotated[str, Option(help="Grids, comma-separated.")] = ",".join(GRIDS),
    output: Output = RESULTS / "otfs_sweep.json",
) -> None:
    """Measure the equalizer with many divisions of a frame among blocks and threads."""
    links = [Settings(grid=grid) for grid in chosen(grids, GRIDS, "--grids")]
    rates = roofline.measure()
    result = {
        "date": today(),
        "device": torch.cuda.get_device_name(),
        "snr_db": SNR,
        "rates": asdict(rates),
    }

    reports = []
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as workers:
        frames = [workers.submit(source.simulate, link, SNR, 0, 0) for link in links]
        for link, frame in zip(links, frames, strict=True):
            sweep = Sweep(link, frame.result(), workers, rates)
            sweep.run()
            reports.append(sweep.report())
            # Written after every grid: what was measured is kept where a later one fails.
            write_results(output, result | {"grids": reports})
