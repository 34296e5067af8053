"""The Zak-OTFS receiver on a GPU: latency at frame pace, throughput, stages, baselines, BER.

    python benchmarks/otfs.py [--frames 10000] [--grids 1024x32 ...] --output FILE
    python benchmarks/otfs.py --loss-only --output benchmarks/results/otfs_loss.json    (no GPU)

A file written before keeps the grids that are not measured now. Each grid is captured by
`foundryc capture`, and its bundle measured in a process without torch (otfs/replay.py); stages and
baselines run in one with torch (otfs/stages.py). Latency is from the last sample in host memory to
LLRs and bits in host memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

GRIDS = ("16384x32", "8192x32", "4096x32", "2048x32", "1024x32")
LOSS = ROOT / "benchmarks" / "results" / "otfs_loss.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grids", nargs="+", default=GRIDS)
    parser.add_argument("--frames", type=int, default=10_000, help="paced, of each grid")
    parser.add_argument("--flat-frames", type=int, default=3_000)
    parser.add_argument("--pool", type=int, default=16, help="simulated frames, repeated")
    parser.add_argument("--snr", type=float, default=20.0)
    parser.add_argument("--loss-only", action="store_true")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    if options.loss_only:
        from benchmarks.otfs import loss

        date = datetime.now(UTC).date().isoformat()
        _write(options.output, {"date": date, "snr_loss": loss.small_grids(60)})
        return
    device = _device()
    result: dict[str, Any] = {}
    if options.output.is_file():
        result = json.loads(options.output.read_text())
    grids = {one["grid"]: one for one in result.get("grids", [])}
    if LOSS.is_file():
        result["snr_loss"] = json.loads(LOSS.read_text())["snr_loss"]
    with tempfile.TemporaryDirectory() as folder:
        bundles = {grid: Path(folder, f"{grid}.fdy") for grid in options.grids}
        with ThreadPoolExecutor(len(bundles)) as workers:
            list(workers.map(lambda grid: _capture(grid, bundles[grid]), bundles))
        for grid, bundle in bundles.items():
            print(grid, file=sys.stderr, flush=True)
            arguments = [options.frames, options.flat_frames, options.pool, options.snr]
            stream = _python("benchmarks.otfs.replay", bundle, *arguments)
            stages = _python("benchmarks.otfs.stages", grid, options.snr, options.pool)
            date = datetime.now(UTC).isoformat(timespec="minutes")
            grids[grid] = {"grid": grid, "date": date, "device": device} | stages | stream
            result["grids"] = list(grids.values())
            # After every grid: what was measured is kept where a later one fails.
            _write(options.output, result)
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
    asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return subprocess.run(asked, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _write(path: Path, result: dict[str, Any]) -> None:
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
