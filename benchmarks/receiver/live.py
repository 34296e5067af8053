"""What the live page costs the receiver: runs on a CPU without it, with it, and with a viewer.

Runs take turns, so that the machine's load meets all of them alike. A viewer reads every update.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
from typer import Option

from benchmarks.device import cpu
from benchmarks.report import RESULTS, Output, say, today, write_results

WAYS = ("without", "page", "viewer")


class Viewer(threading.Thread):
    """Reads the page's updates and counts them."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.updates = self.size = 0
        self._url = url

    def run(self) -> None:
        with urllib.request.urlopen(self._url + "events") as stream:
            for line in stream:
                self.updates += line.startswith(b"data: ")
                self.size += len(line)


def once(bundle: Path, way: str, frames: int) -> dict[str, Any]:
    """One run's frames a second, latencies, and processor time."""
    command = [sys.executable, "-c", "from foundryrt.cli import main; main()", "run", str(bundle)]
    command += ["--json", "--frames", str(frames), "--pool", "16"]
    command += [] if way == "without" else ["--live"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        viewer = None
        if way == "viewer":
            assert process.stderr is not None
            found = re.search(r"http://\S+", process.stderr.readline())
            assert found is not None
            viewer = Viewer(found[0])
            viewer.start()
        out, err = process.communicate()
    if process.returncode:
        sys.exit(err)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = json.loads(out)
    seconds = report["frames"] * report["payload_bits"] / report["payload_mbps"] / 1e6
    result = {
        "frames_a_second": report["frames"] / seconds,
        "processor_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        **{f"{name}_ms": report["latency_ms"][name] for name in ("p50", "p99")},
    }
    if viewer:
        viewer.join(5)
        result |= {"updates": viewer.updates, "bytes_an_update": viewer.size / viewer.updates}
    return result


def run(
    grids: Annotated[str, Option(help="Grids, comma-separated.")] = "64x32,1024x32",
    frames: Annotated[str, Option(help="Frames of a run on each grid.")] = "6000,600",
    rounds: Annotated[int, Option(help="Runs of each way.")] = 8,
    output: Output = RESULTS / "otfs_live.json",
) -> None:
    """Measure runs flat out, by turns."""
    found: dict[str, Any] = {}
    loads = []
    for grid, count in zip(grids.split(","), map(int, frames.split(",")), strict=True):
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        with TemporaryDirectory() as folder:
            bundle = Path(folder) / "otfs.fdy"
            capture = ["capture", "--workload", "otfs", "--grid", grid, "--target", "host"]
            code = "from foundryc.cli import main; main()"
            subprocess.run(
                [sys.executable, "-c", code, *capture, "--output", str(bundle)],
                check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            for number in range(rounds):
                loads.append(os.getloadavg()[0])
                for way in WAYS[number % 3 :] + WAYS[: number % 3]:
                    runs[way].append(once(bundle, way, count))
                    say(f"{grid} {way}: {runs[way][-1]}")
        found[grid] = {"frames": count} | {way: summary(runs[way], runs) for way in WAYS}
    result = {
        "date": today(),
        "device": f"{cpu()}, numpy {np.__version__}",
        "protocol": "foundryrt run on the host target, flat out, 16-QAM, 20 dB; runs of the ways "
        "take turns; medians over the runs; OMP_NUM_THREADS "
        + os.environ.get("OMP_NUM_THREADS", "not set"),
        "rounds": rounds,
        "load_average": [round(load, 1) for load in loads],
        "grids": found,
    }
    write_results(output, result)


def summary(
    runs: list[dict[str, Any]], all_runs: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """Medians of one way.

    `slower` and `processor_more` are medians over the rounds: frames a second that were lost, and
    processor time that was added, as shares of the run without.
    """
    medians = {name: float(np.median([one[name] for one in runs])) for name in runs[0]}
    best = max(one["frames_a_second"] for one in runs)
    pairs = list(zip(runs, all_runs["without"], strict=True))
    slower = [1 - one["frames_a_second"] / other["frames_a_second"] for one, other in pairs]
    more = [one["processor_s"] / other["processor_s"] - 1 for one, other in pairs]
    return medians | {
        "best_frames_a_second": best,
        "slower": float(np.median(slower)),
        "processor_more": float(np.median(more)),
    }
