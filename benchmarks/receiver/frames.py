"""The Zak-OTFS receiver on a GPU: latency at frame pace, throughput, stages, baselines, BER.

A results file keeps the grids that a run does not measure. Each grid is captured by
`foundryc capture`, and its bundle measured in a process without torch (replay.py); stages and
baselines run in one with torch (stages.py). Latency is from the last sample in host memory to
LLRs and bits in host memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from benchmarks.device import gpu
from benchmarks.report import RESULTS, Output, chosen, write_results

ROOT = Path(__file__).parents[2]

GRIDS = ("16384x32", "8192x32", "4096x32", "2048x32", "1024x32")
LOSS = RESULTS / "otfs_loss.json"


def run(
    grids: Annotated[str, Option(help="Delay x Doppler bins, comma-separated.")] = ",".join(GRIDS),
    frames: Annotated[int, Option(help="Frames at frame pace, of each grid.")] = 10_000,
    flat_frames: Annotated[int, Option(help="Frames flat out.")] = 3_000,
    pool: Annotated[int, Option(help="Simulated frames, which repeat.")] = 16,
    snr: Annotated[float, Option(help="In dB.")] = 20.0,
    output: Output = RESULTS / "otfs.json",
) -> None:
    """Measure the receiver of each grid: at frame pace, flat out, by stage, beside torch.

    Results are written after each grid.
    """
    wanted = chosen(grids, GRIDS, "--grids")
    device = _device()
    result: dict[str, Any] = {}
    if output.is_file():
        result = json.loads(output.read_text())
    measured = {one["grid"]: one for one in result.get("grids", [])}
    if LOSS.is_file():
        result["snr_loss"] = json.loads(LOSS.read_text())["snr_loss"]
    with tempfile.TemporaryDirectory() as folder:
        bundles = {grid: Path(folder, f"{grid}.fdy") for grid in wanted}
        with ThreadPoolExecutor(len(bundles)) as workers:
            list(workers.map(lambda grid: _capture(grid, bundles[grid]), bundles))
        for grid, bundle in bundles.items():
            print(grid, file=sys.stderr, flush=True)
            arguments = [frames, flat_frames, pool, snr]
            stream = _python("benchmarks.receiver.replay", bundle, *arguments)
            stages = _python("benchmarks.receiver.stages", grid, snr, pool)
            date = datetime.now(UTC).isoformat(timespec="minutes")
            measured[grid] = {"grid": grid, "date": date, "device": device} | stages | stream
            result["grids"] = list(measured.values())
            # After every grid: what was measured is kept where a later one fails.
            write_results(output, result)
    print(json.dumps(result, indent=1))


def _capture(grid: str, bundle: Path) -> None:
    code = "import sys; from foundryc.cli import main; sys.argv[0] = 'foundryc'; main()"
    command = ["capture", "--workload", "otfs", "--target", "cuda", "--grid", grid]
    subprocess.run(
        [sys.executable, "-c", code, *command, "-o", str(bundle)],
        check=True, cwd=ROOT, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def _python(module: str, *arguments: object) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def _device() -> str:
    return gpu("name,driver_version")
