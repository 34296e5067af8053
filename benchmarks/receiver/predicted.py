"""Frame times of GPUs that are not here, predicted from counts and data sheets: none is measured.

`floor_us` is what no program can be faster than: a frame's multiply-adds and bytes
(`roofline.work`) at the published rates. `equalize_us` also counts how a frame is divided: rounds
of blocks, instructions beside the multiply-adds, exchanges (`geometry.iteration_us`, whose
constants are fitted to an H100). The other kernels take STAGE_US, as on an H100, and the time of
their bytes. `resident` is how many of the frame's `blocks` the GPU holds at once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

from typer import Option

from benchmarks.receiver import roofline
from benchmarks.report import RESULTS, Output, chosen, today, write_results
from otfs_pipeline.receiver.kernels.geometry import TYPICAL_DELAYS, Geometry, iteration_us
from otfs_pipeline.receiver.kernels.platforms import PLATFORMS, Platform
from otfs_pipeline.settings import Settings

GRIDS = ("16384x32", "4096x32", "1024x32")
STAGE_US = 10.0
"""Of read_window, select_taps and demap together, beside their bytes."""
OTHERS = ("read_window", "select_taps", "demap")


@dataclass(frozen=True)
class Prediction:
    """A grid on a GPU; see above. `deadline` is the frame's time over that of its samples."""

    grid: str
    architecture: str
    product: str
    each: int
    blocks: int
    resident: int
    stretch: int
    shared_bytes: int
    floor_us: float
    equalize_us: float
    frame_us: float
    deadline: float


def predict(grid: str, platform: Platform) -> Prediction:
    """One grid on one GPU."""
    settings = Settings(grid=grid)
    geometry = Geometry.of(settings, platform, preconditioned=False)
    rates = roofline.Rates(platform.tflops / 2 * 1e12, platform.bandwidth * 1e9)
    work = roofline.work(geometry, min(TYPICAL_DELAYS, geometry.delays))
    equalize = settings.cg_iterations * iteration_us(geometry)
    frame = equalize + STAGE_US + sum(1e6 * work[name].seconds(rates) for name in OTHERS)
    return Prediction(
        grid=grid,
        architecture=platform.architecture,
        product=platform.product,
        each=geometry.each,
        blocks=settings.n * geometry.cluster,
        resident=platform.multiprocessors * geometry.resident,
        stretch=geometry.stretch,
        shared_bytes=geometry.shared_bytes,
        floor_us=1e6 * sum(part.seconds(rates) for part in work.values()),
        equalize_us=equalize,
        frame_us=frame,
        deadline=frame * 1e-6 / settings.frame_seconds,
    )


def run(
    grids: Annotated[str, Option(help="Grids, comma-separated.")] = ",".join(GRIDS),
    output: Output = RESULTS / "otfs_predicted.json",
) -> None:
    """Predict frame times of every published platform."""
    found = [
        predict(grid, platform)
        for grid in chosen(grids, GRIDS, "--grids")
        for platform in PLATFORMS.values()
    ]
    for row in found:
        print(
            f"{row.grid:9} {row.architecture:7} {row.product:22} floor {row.floor_us:7.1f}"
            f"  frame {row.frame_us:7.0f} us  {row.deadline:.2f} of the deadline"
        )
    write_results(output, {"date": today(), "predicted": [asdict(row) for row in found]})
