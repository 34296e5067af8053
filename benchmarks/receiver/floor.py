"""Bit error rates where there is hardly any noise: what too few iterations leave.

Of the float64 receiver, with iterations by period (as on a GPU without clusters), and with
preconditioned ones as on a CPU and of blocks (as on a GPU); the channel is estimated. `most` is the
end of a rate's 95 % interval where no error was seen, 3 over the bits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from typer import Option

from benchmarks.device import cpu
from benchmarks.report import RESULTS, Output, chosen, say, today, write_results
from foundryrt.errors import UsageError
from otfs_pipeline.frames import source
from otfs_pipeline.link import reference
from otfs_pipeline.link.frame import payload_bits
from otfs_pipeline.receiver.kernels.geometry import Geometry
from otfs_pipeline.settings import Settings

GRIDS = ("64x32", "256x32", "1024x32")
MODULATIONS = (4, 16, 64)
SNRS = (40.0, 50.0)
FEWER = 28


def measure(link: Settings, snr: float, bits: int) -> dict[str, Any]:
    """Errors of the receivers on the same frames, with so many bits at least."""
    forms: dict[str, dict[str, Any]] = {
        "periods": {"periods": True},
        "preconditioned": {"preconditioned": True},
        "blocks": {"blocks": Geometry.of(link).blocks},
    }
    wrong = dict.fromkeys(forms, 0)
    sent = 0
    for index in range(-(-bits // payload_bits(link))):
        frame = source.simulate(link, snr, 3, index)
        sent += frame.bits.size
        for form, how in forms.items():
            got = reference.receive(frame.samples.astype(np.complex128), link, **how)
            wrong[form] += int(np.sum(got.bits.ravel() != frame.bits))
    return {
        "grid": link.grid,
        "modulation": link.modulation,
        "snr_db": snr,
        "iterations": link.cg_iterations,
        "preconditioned_iterations": link.preconditioned_iterations,
        "overlapped_iterations": link.overlapped_iterations,
        "bits": sent,
        "errors": wrong,
        "most": 3 / sent,
    }


def run(
    grids: Annotated[str, Option(help="Grids, comma-separated.")] = ",".join(GRIDS),
    bits: Annotated[int, Option(help="Bits of each rate, at least.")] = 400_000,
    output: Output = RESULTS / "otfs_floor.json",
) -> None:
    """Measure what is left of errors at high SNR, by default iterations and by 28."""
    if bits < 1:
        raise UsageError(f"--bits {bits}: use 1 or more")
    rows: list[dict[str, Any]] = []
    for grid in chosen(grids, GRIDS, "--grids"):
        for modulation in MODULATIONS:
            link = Settings(grid=grid, modulation=modulation)
            links = {one.cg_iterations: one for one in (link, replace(link, iterations=FEWER))}
            for snr in SNRS:
                for one in links.values():
                    rows.append(measure(one, snr, bits))
                    say(str(rows[-1]))
                    write_results(output, {"date": today(), "device": cpu(), "rows": rows})
