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
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from benchmarks.device import gpu
from benchmarks.report import RESULTS, Output, chosen, say, write_results

ROOT = Path(__file__).parents[2]

PARTS = ("frames", "waveform")
GRIDS = ("16384x32", "8192x32", "4096x32", "2048x32", "1024x32")
# Of the waveform, which has the largest grid.
CODE_RATE, WAVEFORM_POOL = 0.5, 4
LOSS = RESULTS / "otfs_loss.json"


def run(
    grids: Annotated[str, Option(help="Delay x Doppler bins, comma-separated.")] = ",".join(GRIDS),
    frames: Annotated[int, Option(help="Frames at frame pace, of each grid.")] = 10_000,
    flat_frames: Annotated[int, Option(help="Frames flat out.")] = 3_000,
    pool: Annotated[int, Option(help="Simulated frames, which repeat.")] = 16,
    snr: Annotated[float, Option(help="In dB.")] = 20.0,
    parts: Annotated[str, Option(help=f"What is measured: {', '.join(PARTS)}.")] = ",".join(PARTS),
    seconds: Annotated[float, Option(help="Of the waveform at the air's pace, at most.")] = 60.0,
    ber_frames: Annotated[int, Option(help="Of the waveform, at each SNR; 0: none.")] = 8,
    output: Output = RESULTS / "otfs.json",
) -> None:
    """Measure the receiver of each grid: at frame pace, flat out, by stage, beside torch.

    Of the largest grid also from raw samples to decoded payload. Results are written after each.
    """
    wanted, asked = chosen(grids, GRIDS, "--grids"), chosen(parts, PARTS, "--parts")
    device = _device()
    result: dict[str, Any] = {}
    if output.is_file():
        result = json.loads(output.read_text())
    measured = {one["grid"]: one for one in result.get("grids", [])}
    if LOSS.is_file():
        result["snr_loss"] = json.loads(LOSS.read_text())["snr_loss"]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if "waveform" in asked:
            say(f"{GRIDS[0]}: the waveform")
            result["coded"] = about(device) | _waveform(folder, frames, seconds, ber_frames)
            write_results(output, result)
        if "frames" in asked:
            with ThreadPoolExecutor(len(wanted)) as workers:
                bundles = list(workers.map(partial(_capture, folder), wanted))
            for grid, bundle in zip(wanted, bundles, strict=True):
                say(grid)
                arguments = [frames, flat_frames, pool, snr]
                stream = _python("benchmarks.receiver.replay", bundle, *arguments)
                stages = _python("benchmarks.receiver.stages", grid, snr, pool)
                measured[grid] = {"grid": grid} | about(device) | stages | stream
                result["grids"] = list(measured.values())
                # After every grid: what was measured is kept where a later one fails.
                write_results(output, result)
    print(json.dumps(result, indent=1))


def about(device: str) -> dict[str, str]:
    """When and on what something is measured."""
    return {"date": datetime.now(UTC).isoformat(timespec="minutes"), "device": device}


def _waveform(folder: Path, frames: int, seconds: float, ber_frames: int) -> dict[str, Any]:
    bundle = _capture(folder, GRIDS[0], "--code-rate", str(CODE_RATE))
    arguments = [bundle, frames, seconds, WAVEFORM_POOL, ber_frames]
    link = {"grid": GRIDS[0], "code_rate": CODE_RATE}
    stages = _python("benchmarks.receiver.chain", json.dumps(link))
    return {"stage_us": stages} | _python("benchmarks.receiver.waveform", *arguments)


def _capture(folder: Path, grid: str, *options: str) -> Path:
    bundle = folder / f"{grid}{''.join(options)}.fdy"
    code = "import sys; from foundryc.cli import main; sys.argv[0] = 'foundryc'; main()"
    command = ["capture", "--workload", "otfs", "--target", "cuda", "--grid", grid, *options]
    subprocess.run(
        [sys.executable, "-c", code, *command, "-o", str(bundle)],
        check=True, cwd=ROOT, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return bundle


def _python(module: str, *arguments: object) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def _device() -> str:
    return gpu("name,driver_version")
