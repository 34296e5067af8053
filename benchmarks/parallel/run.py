"""Ranks on the GPUs of one host: exchanges and captures beside NCCL's, decoding beside one GPU.

A bundle is captured on one GPU and run by as many processes as there are ranks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

from typer import Option

from benchmarks.device import gpu
from benchmarks.report import RESULTS, Output, Report, chosen, say, today
from benchmarks.start.cold import STEPS as START_STEPS
from benchmarks.start.cold import process

STEPS = Path(__file__).parent / "steps"
PARTS = ("allreduce", "decode", "capture", "profile")
SMALL = 256 << 10
"""Bytes up to which an all-reduce counts as small."""
NAMES = {"qwen3-14b": "14B", "qwen3-32b": "32B", "qwen3-0.6b": "0.6B", "tiny": "tiny"}


def run(
    ranks: Annotated[int, Option(help="Processes, one a GPU.")] = 2,
    devices: Annotated[
        str, Option(help="GPUs, as 0,1 of those that are visible. One may be named twice.")
    ] = "",
    parts: Annotated[str, Option(help=f"Of {', '.join(PARTS)}.")] = ",".join(PARTS),
    models: Annotated[str, Option(help="Geometries to decode.")] = "qwen3-14b",
    largest: Annotated[int, Option(help="KiB of the largest exchange.")] = 64 << 10,
    repeats: Annotated[int, Option(help="Starts, of which medians are taken.")] = 3,
    output: Output = RESULTS / "tp.json",
) -> None:
    """Measure `ranks` processes together. Written after each part; others keep what they have."""
    gpus = devices or ",".join(map(str, range(ranks)))
    about = {
        "date": today(), "device": gpu(), "driver": gpu("driver_version"), "devices": gpus,
    }  # fmt: skip
    report = Report(output, about)
    folder = Path(tempfile.mkdtemp())
    try:
        for part in chosen(parts, PARTS, "--parts"):
            if part == "allreduce":
                report.save(f"allreduce_{ranks}", _allreduce(folder, ranks, gpus, largest))
                continue
            measure = {"decode": _decode, "capture": _capture, "profile": _profile}[part]
            for model in chosen(models, tuple(NAMES), "--models"):
                found = measure(folder, model, ranks, gpus, repeats)
                report.save(f"{part}_{NAMES[model]}_{ranks}", found)
    finally:
        shutil.rmtree(folder)


def _allreduce(folder: Path, ranks: int, gpus: str, largest: int) -> dict[str, Any]:
    """Microseconds of an exchange inside a graph, by bytes; ours by kernel."""
    bundle = folder / "exchanges.fdy"
    _step("exchange_capture.py", bundle, ranks, largest)
    own = _step("exchange_ours.py", bundle, gpus)["us"]
    nccl = _step("exchange_nccl.py", gpus, largest)["us"]
    # The model's choice: the kernel that adds a norm for few rows, the other one above.
    ours = {size: own.get(f"norm {size}", own[f"reduce {size}"]) for size in nccl}
    over = {size: ours[size] / nccl[size] for size in nccl}
    found: dict[str, Any] = {"us": own, "nccl_us": nccl, "over_nccl": over}
    for name, sizes in (
        ("small_over_nccl", [size for size in over if int(size) <= SMALL]),
        ("large_over_nccl", [size for size in over if int(size) > SMALL]),
    ):
        if sizes:
            found[name] = max(over[size] for size in sizes)
    return found


def _decode(folder: Path, model: str, ranks: int, gpus: str, repeats: int) -> dict[str, Any]:
    """Milliseconds of a decode step on one GPU and on all, by batch, and how all of them start."""
    paths = _captured(folder, model, ranks, gpus)
    found: dict[str, Any] = {"model": model, "weights": "zeros, made on the device"}
    for world, path in paths.items():
        own = gpus if world > 1 else gpus.split(",")[0]
        runs = [_step("decode_time.py", path, own) for _ in range(repeats)]
        say(f"{world} ranks: {runs[-1]}")
        found[f"ranks_{world}"] = {
            "step_ms": {
                batch: median(one["step_ms"][batch] for one in runs) for batch in runs[0]["step_ms"]
            },
            "first_launch_ms": median(one["first_launch_ms"] for one in runs),
            "all_ready_ms": median(one["all_ready_ms"] for one in runs),
            "timeline_ms": {
                step: median(one["timeline_ms"][step] for one in runs)
                for step in runs[0]["timeline_ms"]
            },
        }
    alone, together = (found[f"ranks_{world}"]["step_ms"] for world in paths)
    found["speedup"] = {batch: alone[batch] / together[batch] for batch in alone}
    bare, seeing_all = [], []
    for _ in range(repeats):
        bare.append(_bare(folder, gpus.split(","), False))
        seeing_all.append(_bare(folder, gpus.split(","), True))
    found["bare_ms"], found["bare_seeing_all_ms"] = median(bare), median(seeing_all)
    found["first_launch_ratio"] = found[f"ranks_{ranks}"]["first_launch_ms"] / found["bare_ms"]
    return found


def _captured(folder: Path, model: str, ranks: int, gpus: str) -> dict[int, Path]:
    """Bundles of decode passes by number of ranks: of one and of all."""
    paths = {world: folder / f"{model}.{world}.fdy" for world in (1, ranks)}
    own = dict(zip(paths, (gpus.split(",")[0], gpus.split(",")[-1]), strict=True))
    side_by_side([
        lambda w=world: _step("decode_capture.py", model, w, paths[w], "", visible=own[w])
        for world, path in paths.items()
        if not path.exists()
    ])  # fmt: skip
    return paths


def _profile(folder: Path, model: str, ranks: int, gpus: str, repeats: int) -> dict[str, Any]:
    """Microseconds of a decode step by kernel, on one GPU and on rank 0 of all."""
    return {
        f"ranks_{world}": _step(
            "decode_profile.py", path, gpus if world > 1 else gpus.split(",")[0]
        )
        for world, path in _captured(folder, model, ranks, gpus).items()
    }


def _capture(folder: Path, model: str, ranks: int, gpus: str, repeats: int) -> dict[str, Any]:
    """Milliseconds until all ranks have as many graphs: from a bundle, and by torch with NCCL."""
    path, first = folder / f"{model}.many.fdy", gpus.split(",")[0]
    _step("decode_capture.py", model, ranks, path, "many", visible=first)
    ours = [_step("decode_time.py", path, gpus) for _ in range(repeats)]
    say(f"from a bundle: {ours[-1]['all_ready_ms']:.0f} ms")
    theirs = []
    for number in range(2):
        meeting = folder / f"meeting.{number}"
        calls = [
            partial(_step, "capture_nccl.py", model, rank, ranks, meeting, visible=gpu)
            for rank, gpu in enumerate(gpus.split(","))
        ]
        theirs.append(side_by_side(calls))
    own = median(one["all_ready_ms"] for one in ours)
    nccl = median(max(rank["all_ready_ms"] for rank in one) for one in theirs)
    return {
        "graphs": theirs[0][0]["graphs"], "all_ready_ms": own, "nccl_all_ready_ms": nccl,
        "all_ready_ratio": own / nccl, "ours": ours, "nccl": theirs,
    }  # fmt: skip


def _bare(folder: Path, gpus: Sequence[str], all_seen: bool) -> float:
    """Milliseconds until as many bare processes, started together, have each used its GPU.

    The driver starts what a process sees: its GPU alone, or those of all, as ranks must.
    """
    program = folder / "floor"
    if not program.exists():
        command = ["g++", "-O2", START_STEPS / "floor.cpp", "-o", program, "-ldl"]
        subprocess.run(command, check=True)
    began = time.time()
    started = []
    for one in gpus:
        seen = [one, *(other for other in gpus if other != one and all_seen)]
        own = os.environ | {"CUDA_VISIBLE_DEVICES": _visible(dict.fromkeys(seen))}
        started.append(subprocess.Popen([program], env=own))
    if any(one.wait() for one in started):
        raise SystemExit("a bare process failed")
    return (time.time() - began) * 1e3


def _step(script: str, *arguments: object, visible: str = "") -> Any:
    """A script of the folder `steps`, or of one that sees GPU `visible` alone."""
    command = [sys.executable, STEPS / script, *arguments]
    if visible:
        command = ["env", f"CUDA_VISIBLE_DEVICES={_visible([visible])}", *command]
    report, spent = process(*command)
    say(f"{script} {' '.join(str(a) for a in arguments[-2:])}: {spent / 1e3:.1f} s")
    return report


def _visible(gpus: Iterable[str]) -> str:
    """These, of the GPUs that this process sees, for a process that sees no other."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    return ",".join(names.split(",")[int(one)] if names else one for one in gpus)


def side_by_side(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each of the calls gives, which run at once."""
    with ThreadPoolExecutor(max(1, len(calls))) as threads:
        return [done.result() for done in [threads.submit(call) for call in calls]]
