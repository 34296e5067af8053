"""What each kind of link takes on the GPU: every kernel, with the front end, and bit error rates.

Kinds are those of Settings that change what runs: a point or a spread pilot, a cyclic prefix, two
antennas. Of each: microseconds of the kernels (`chain.py`), and the bit error rate of frames as the
simulated source makes them beside that of the float64 receiver on the same ones.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch
from typer import Option

from benchmarks.receiver import chain
from benchmarks.report import RESULTS, Output, chosen, today, write_results
from foundryc.cuda.kernels import architecture
from foundryrt.errors import UsageError
from otfs_pipeline.frames import source
from otfs_pipeline.link import reference
from otfs_pipeline.receiver.kernels.frame import KernelFrame, tables
from otfs_pipeline.receiver.kernels.geometry import Geometry
from otfs_pipeline.receiver.kernels.platforms import platform
from otfs_pipeline.settings import Settings

GRIDS = ("1024x32", "16384x32")
KINDS: dict[str, dict[str, Any]] = {
    "point": {},
    "spread": {"pilot": "spread"},
    "prefix": {"waveform": "cp"},
    "2 antennas": {"antennas": 2},
}
SNR = 20.0


def measure(link: Settings, frames: int) -> dict[str, Any]:
    """Of one kind."""
    # There is no context before torch has made one.
    torch.cuda.synchronize()
    here = platform(architecture())
    receive = KernelFrame(link, chain.on_device(tables(link)), here)
    blocks = Geometry.of(link, here).blocks
    wrong = {"ber": 0, "exact_ber": 0}
    for index in range(frames):
        frame = source.simulate(link, SNR, 0, index)
        bits = receive(torch.from_numpy(frame.samples).cuda())["bits"].cpu().numpy()
        samples = frame.samples.astype(np.complex128)
        exact = reference.receive(samples, link, periods=True, blocks=blocks)
        for name, decided in (("ber", bits), ("exact_ber", exact.bits)):
            wrong[name] += int(np.sum(decided.ravel() != frame.bits))
    sent = frames * frame.bits.size
    rates = {name: count / sent for name, count in wrong.items()}
    return {"frames": frames, **rates, "kernel_us": chain.measure(link)}


def run(
    grids: Annotated[str, Option(help="Grids, comma-separated.")] = ",".join(GRIDS),
    frames: Annotated[
        int, Option(help="Frames of 1024 delays, for the bit error rate; fewer of larger ones.")
    ] = 16,
    output: Output = RESULTS / "otfs_links.json",
) -> None:
    """Measure the kernels of every kind of link."""
    if frames < 1:
        raise UsageError(f"--frames {frames}: use 1 or more")
    result = {"date": today(), "device": torch.cuda.get_device_name(), "snr_db": SNR}
    measured: list[dict[str, Any]] = []
    for grid in chosen(grids, GRIDS, "--grids"):
        for kind, changes in KINDS.items():
            link = Settings(grid=grid, **changes)
            count = max(1, frames * 1024 // link.m)
            measured.append({"grid": grid, "kind": kind, **measure(link, count)})
            all_us = measured[-1]["kernel_us"]["all"]
            print(grid, kind, f"{all_us:.1f} us, BER {measured[-1]['ber']:.3e}", flush=True)
            write_results(output, result | {"links": measured})
