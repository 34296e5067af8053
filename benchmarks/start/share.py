"""One rank's share of Qwen3-235B-A22B over 8: captured on one GPU, started by fresh processes."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from benchmarks.device import gpu
from benchmarks.report import RESULTS, Output, today, write_results
from benchmarks.start.cold import floor, step


def run(
    model: Annotated[str, Option(help="Geometry, of benchmarks/parse/models.py.")] = (
        "qwen3-235b-a22b"
    ),
    ranks: Annotated[int, Option(help="Of how many the share is one.")] = 8,
    repeats: Annotated[int, Option(help="Processes, of which medians are taken.")] = 3,
    proof: Annotated[int, Option(help="Seconds for a capture with proof; 0 for none.")] = 540,
    output: Output = RESULTS / "tp235b.json",
) -> None:
    """Capture, then start. Written after the capture, and at the end."""
    folder = Path(tempfile.mkdtemp())
    try:
        path, began = folder / "rank.fdy", time.time()
        report: dict[str, Any] = {
            "date": today(), "device": gpu(), "driver": gpu("driver_version"), "model": model,
            "ranks": ranks, "weights": "zeros, made on the device",
        }  # fmt: skip
        report |= step("share_capture.py", model, ranks, path, proof)
        report |= {
            "proved": bool(proof),
            "capture_minutes": (time.time() - began) / 60,
            "bundle_mb": path.stat().st_size / 1e6,
        }
        write_results(output, report)
        runs = [step("share_start.py", path) for _ in range(repeats)]
        report |= floor(folder, repeats) | {
            key: statistics.median(one[key] for one in runs) for key in runs[0]
        }
        report["first_launch_ratio"] = report["first_launch_ms"] / report["floor_ms"]
        report["us_per_node"] = report["graphs_s"] * 1e6 / report["nodes"]
        write_results(output, report)
    finally:
        shutil.rmtree(folder)
