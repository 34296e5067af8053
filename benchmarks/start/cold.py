"""Cold start of a decoder's graphs: torch against a bundle; every figure from fresh processes.

Results have a part for each mode, eager and compiled. The weights are in a file in the page cache.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from benchmarks.device import gpu
from benchmarks.report import RESULTS, Output, chosen, today, write_results
from foundryrt.cuda.early import QUEUES

STEPS = Path(__file__).parent / "steps"
ROOT = Path(__file__).parents[2]
MODES = ("eager", "compile")


class Model(StrEnum):
    """Decoders that can be measured."""

    SMALL = "qwen3-0.6b"
    LARGE = "qwen3-14b"


def search_path() -> str:
    """PYTHONPATH with the site's folder by name, for processes without `site` (see `step`)."""
    return f"{os.environ.get('PYTHONPATH', '')}:{ROOT}:{sysconfig.get_path('purelib')}"


def process(
    *command: object, limit: float | None = None, **variables: str
) -> tuple[dict[str, Any], float]:
    """The JSON on a process's last line, and its whole time in milliseconds.

    `variables` are set in its environment. After `limit` seconds it is killed, and all that it has
    started: the benchmark ends.
    """
    start = time.time()
    words = [str(word) for word in command]
    running = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/",
        env=os.environ | {"SPAWNED": repr(start), "PYTHONPATH": search_path()} | variables,
    )  # fmt: skip
    try:
        out, err = running.communicate(timeout=limit)
    except BaseException as error:
        kill_family(running.pid)
        out, err = running.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        said = f"{out[-1000:]}{err[-4000:]}"
        raise SystemExit(f"{command}: did not end in {limit:.0f} s\n{said}") from None
    spent = (time.time() - start) * 1e3
    if running.returncode:
        said = f"{out[-1000:]}{err[-4000:]}"
        raise SystemExit(f"{command}: exit status {running.returncode}\n{said}")
    lines = out.strip().splitlines()
    return (json.loads(lines[-1]) if lines else {}), spent


def kill_family(process: int) -> None:
    """Kill a process and those that it has started, which stand still first: none starts more."""
    _signal({process}, signal.SIGSTOP)
    kill_children(process)
    _signal({process}, signal.SIGKILL)


def kill_children(process: int) -> None:
    """Kill those that a process has started, and those that they have."""
    family, found = {process}, {process}
    while found:
        found = {child for child, parent in parents() if parent in family} - family
        _signal(found, signal.SIGSTOP)
        family |= found
    _signal(family - {process}, signal.SIGKILL)


def _signal(processes: set[int], number: int) -> None:
    for one in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, number)


def parents() -> Iterator[tuple[int, int]]:
    """Each process, and which one has started it."""
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            yield int(place.parent.name), int(place.read_text().rpartition(")")[2].split()[1])


def step(script: str, *arguments: object) -> dict[str, Any]:
    """A script of the folder `steps` in a process of its own."""
    # A start does not pay for what other packages' .pth files import.
    options = ["-S"] if script in ("replay.py", "share_start.py") else []
    report, spent = process(sys.executable, *options, STEPS / script, *arguments)
    print(f"{script} {' '.join(map(str, arguments[:2]))}: {spent / 1e3:.1f} s", file=sys.stderr)
    return report


def floor(folder: Path, repeats: int) -> dict[str, float]:
    """A bare process: cuInit, context, one launch; and the speed of a pinned copy.

    Its context has as many queues as that of a bundle, and by turns as many as the driver gives.
    """
    program = folder / "floor"
    subprocess.run(["g++", "-O2", STEPS / "floor.cpp", "-o", program, "-ldl"], check=True)
    turns = [
        [process(program, CUDA_DEVICE_MAX_CONNECTIONS=each)[1] for each in (QUEUES, "8")]
        for _ in range(repeats + 1)
    ]
    own, drivers = map(statistics.median, zip(*turns[1:], strict=True))
    return {"floor_ms": own, "floor_8_queues_ms": drivers, **process(program, "copy")[0]}


def measure(model: str, mode: str, folder: Path, repeats: int, torchs: int) -> dict[str, Any]:
    """All figures of one mode but the replays'."""
    captured = folder / f"{model}.{mode}.captured.json"
    if not captured.exists():
        step("capture.py", model, mode, folder)
    result = json.loads(captured.read_text())
    verified = step("replay.py", model, mode, folder, "verify")
    torch_side = [step("torch_side.py", model, mode) for _ in range(torchs)]
    runs = [step("replay.py", model, mode, folder) for _ in range(repeats)]

    def median(*keys: str) -> float:
        values = []
        for run in runs:
            for key in keys:
                run = run[key]
            values.append(run)
        return statistics.median(values)

    fixed = ("nodes", "graphs", "templates", "kernels", "bundle_bytes", "kernel_bytes")
    result |= {key: verified[key] for key in fixed}
    all_ready = median("marks_ms", "all_ready")
    context = median("timeline_ms", "context")
    result |= {
        # The capture has filled Inductor's cache, as an earlier start would have.
        "torch_total_ms": statistics.median(one["torch_total_ms"] for one in torch_side),
        "first_launch_ms": median("marks_ms", "first_launch"),
        "all_ready_ms": all_ready,
        "context_ms": context,
        # Everything between the context and the last graph, reading and cubins included.
        "us_per_node": (all_ready - context) * 1e3 / verified["nodes"],
        "peak_rss_mb": median("peak_rss_mb"),
        "weights_gbps": median("weights_gbps"),
        "weights_unchecked_gbps": median("weights_unchecked_gbps"),
        "identical": verified["identical"],
        "different": verified["different"],
        "torch_imported": any(run["torch_imported"] for run in [verified, *runs]),
        "example": runs[len(runs) // 2],
    }
    return result


def run(
    model: Annotated[Model, Option(help="Geometry of the decoder.")] = Model.SMALL,
    modes: Annotated[str, Option(help="Of eager and compile.")] = ",".join(MODES),
    repeats: Annotated[int, Option(help="Processes of ours, of which medians are taken.")] = 5,
    torch_repeats: Annotated[int, Option(help="Processes of torch.")] = 2,
    captured: Annotated[
        Path | None, Option(help="Folder that benchmarks.start.steps.capture has filled.")
    ] = None,
    output: Output = RESULTS / "cold_start.json",
) -> None:
    """Measure the cold start of a decoder's graphs from a bundle, beside torch capturing them.

    Results are written after each mode.
    """
    wanted = chosen(modes, MODES, "--modes")
    # Memory, not a disk: the weights are to be in the page cache.
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    folder = captured.resolve() if captured else Path(tempfile.mkdtemp(dir=memory))
    try:
        import torch

        report: dict[str, Any] = {
            "date": today(),
            "model": model.value,
            "device": gpu(),
            "driver": gpu("driver_version"),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            **floor(folder, repeats),
        }
        for mode in wanted:
            found = measure(model.value, mode, folder, repeats, torch_repeats)
            found["first_launch_ratio"] = found["first_launch_ms"] / report["floor_ms"]
            found["all_ready_ratio"] = found["all_ready_ms"] / found["torch_total_ms"]
            found["weights_ratio"] = found["weights_gbps"] / report["pinned_copy_gbps"]
            report[mode] = found
            write_results(output, report)
            found |= step("compare.py", model.value, mode, folder)
            write_results(output, report)
            short = {k: v for k, v in found.items() if not isinstance(v, (dict, list))}
            print(json.dumps(short, indent=1))
        print({k: v for k, v in report.items() if not isinstance(v, dict)})
    finally:
        if not captured:
            shutil.rmtree(folder)
