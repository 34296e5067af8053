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
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

from typer import BadParameter, Option

from benchmarks.device import check_gpus, gpu
from benchmarks.report import RESULTS, Output, Report, chosen, say, today
from benchmarks.start.cold import STEPS as START_STEPS
from benchmarks.start.cold import kill_children, process
from foundryrt.cuda.early import QUEUES
from foundryrt.ranks.asked import gpu_numbers

Save = Callable[[dict[str, Any]], None]
STEPS = Path(__file__).parent / "steps"
PARTS = ("allreduce", "killed", "decode", "capture", "profile")
LIMIT = 180.0
"""Seconds of a step: one whose processes wait for each other for ever costs the others nothing."""
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
    """Measure `ranks` processes together. Written as figures come; others are kept.

    A part that fails keeps no other one from being measured; the benchmark then ends with 1.
    """
    wanted, geometries = chosen(parts, PARTS, "--parts"), chosen(models, tuple(NAMES), "--models")
    gpus = gpus_of(ranks, devices)
    about = {
        "date": today(), "device": gpu(), "driver": gpu("driver_version"), "devices": gpus,
    }  # fmt: skip
    report = Report(output, about)
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured: list[tuple[str, Callable[[Save], None]]] = []
        for part in wanted:
            if part in ("allreduce", "killed"):
                alone = {"allreduce": _allreduce, "killed": _killed}[part]
                one = partial(alone, folder, ranks, gpus, largest)
                measured.append((f"{part}_{ranks}", one))
                continue
            measure = {"decode": _decode, "capture": _capture, "profile": _profile}[part]
            for model in geometries:
                one = partial(measure, folder, model, ranks, gpus, repeats)
                measured.append((f"{part}_{NAMES[model]}_{ranks}", one))
        for key, one in measured:
            try:
                one(partial(report.save, key))
            except (SystemExit, subprocess.SubprocessError) as error:
                say(f"{key}: {error}")
                failed = True
    if failed:
        raise SystemExit(1)


def gpus_of(ranks: int, devices: str) -> str:
    """`devices`, or the first ones: a GPU for each rank; ends the benchmark where one is absent."""
    gpus = devices or ",".join(map(str, range(ranks)))
    numbers = gpu_numbers(gpus)
    if ranks < 2 or numbers is None or len(numbers) != ranks:
        raise BadParameter(
            f"{gpus}: for {ranks} ranks name as many GPUs, two at least", param_hint="--devices"
        )
    check_gpus(numbers)
    return gpus


def _allreduce(folder: Path, ranks: int, gpus: str, largest: int, save: Save) -> None:
    """Microseconds of an exchange inside a graph, by bytes; ours by kernel."""
    own = step("exchange_ours.py", _exchanges(folder, ranks, largest), gpus)["us"]
    save({"us": own})
    nccl = step("exchange_nccl.py", gpus, largest)["us"]
    # The model's choice: the kernel that adds a norm for few rows, the other one above.
    ours = {size: own.get(f"norm {size}", own[f"reduce {size}"]) for size in nccl}
    over = {size: ours[size] / nccl[size] for size in nccl}
    found: dict[str, Any] = {
        "us": own, "nccl_us": nccl, "over_nccl": over, "worst_over_nccl": max(over.values())
    }  # fmt: skip
    for name, sizes in (
        ("small_over_nccl", [size for size in over if int(size) <= SMALL]),
        ("large_over_nccl", [size for size in over if int(size) > SMALL]),
    ):
        if sizes:
            found[name] = max(over[size] for size in sizes)
    save(found)


def _exchanges(folder: Path, ranks: int, largest: int) -> Path:
    """The bundle of exchanges."""
    bundle = folder / "exchanges.fdy"
    if not bundle.exists():
        step("exchange_capture.py", bundle, ranks, largest)
    return bundle


def _killed(folder: Path, ranks: int, gpus: str, largest: int, save: Save) -> None:
    """Seconds until a command and all its ranks have ended, one of which is killed."""
    save(step("killed.py", _exchanges(folder, ranks, largest), ranks, gpus))


def _decode(folder: Path, model: str, ranks: int, gpus: str, repeats: int, save: Save) -> None:
    """Milliseconds of a decode step on one GPU and on all, by batch, and how all of them start."""
    _floor(folder)  # where it cannot be made, that is known at once
    paths = _captured(folder, model, ranks, gpus)
    found: dict[str, Any] = {"model": model, "weights": "zeros, made on the device"}
    runs: dict[int, list[dict[str, Any]]] = {world: [] for world in paths}
    bare_ms: list[float] = []
    bare_seeing_all_ms: list[float] = []
    for _ in range(repeats):
        for world, path in paths.items():
            own = gpus if world > 1 else gpus.split(",")[0]
            runs[world].append(step("decode_time.py", path, own))
            say(f"{world} ranks: {runs[world][-1]}")
        bare_ms.append(bare(folder, gpus.split(","), False))
        bare_seeing_all_ms.append(bare(folder, gpus.split(","), True))
        for world, those in runs.items():
            found[f"ranks_{world}"] = {
                "step_ms": {
                    batch: median(one["step_ms"][batch] for one in those)
                    for batch in those[0]["step_ms"]
                },
                "first_launch_ms": median(one["first_launch_ms"] for one in those),
                "all_ready_ms": median(one["all_ready_ms"] for one in those),
                "starts": [
                    {key: value for key, value in one.items() if key != "step_ms"} for one in those
                ],
            }
        alone, together = (found[f"ranks_{world}"]["step_ms"] for world in paths)
        found["speedup"] = {batch: alone[batch] / together[batch] for batch in alone}
        found["bare_ms"], found["bare_seeing_all_ms"] = median(bare_ms), median(bare_seeing_all_ms)
        launch = found[f"ranks_{ranks}"]["first_launch_ms"]
        found["first_launch_ratio"] = launch / found["bare_ms"]
        save(found)


def _captured(folder: Path, model: str, ranks: int, gpus: str) -> dict[int, Path]:
    """Bundles of decode passes by number of ranks: of one and of all."""
    paths = {world: folder / f"{model}.{world}.fdy" for world in (1, ranks)}
    own = dict(zip(paths, (gpus.split(",")[0], gpus.split(",")[-1]), strict=True))
    side_by_side([
        lambda w=world: step("decode_capture.py", model, w, paths[w], "", visible=own[w])
        for world, path in paths.items()
        if not path.exists()
    ])  # fmt: skip
    return paths


def _profile(folder: Path, model: str, ranks: int, gpus: str, repeats: int, save: Save) -> None:
    """Microseconds of a decode step by kernel, on one GPU and on rank 0 of all."""
    found = {}
    for world, path in _captured(folder, model, ranks, gpus).items():
        own = gpus if world > 1 else gpus.split(",")[0]
        found[f"ranks_{world}"] = step("decode_profile.py", path, own)
        save(found)


def _capture(folder: Path, model: str, ranks: int, gpus: str, repeats: int, save: Save) -> None:
    """Milliseconds until all ranks have as many graphs: from a bundle, and by torch with NCCL."""
    path, first = folder / f"{model}.many.fdy", gpus.split(",")[0]
    step("decode_capture.py", model, ranks, path, "many", visible=first)
    ours = [step("decode_time.py", path, gpus) for _ in range(repeats)]
    say(f"from a bundle: {ours[-1]['all_ready_ms']:.0f} ms")
    own = median(one["all_ready_ms"] for one in ours)
    save({"all_ready_ms": own, "ours": ours})
    theirs = []
    for number in range(2):
        meeting = folder / f"meeting.{number}"
        calls = [
            partial(step, "capture_nccl.py", model, rank, ranks, meeting, visible=gpu)
            for rank, gpu in enumerate(gpus.split(","))
        ]
        theirs.append(side_by_side(calls))
    nccl = median(max(rank["all_ready_ms"] for rank in one) for one in theirs)
    save({
        "graphs": theirs[0][0]["graphs"], "all_ready_ms": own, "nccl_all_ready_ms": nccl,
        "all_ready_ratio": own / nccl, "ours": ours, "nccl": theirs,
    })  # fmt: skip


def bare(folder: Path, gpus: Sequence[str], all_seen: bool) -> float:
    """Milliseconds until as many bare processes, started together, have each used its GPU.

    The driver starts what a process sees: its GPU alone, or those of all, as ranks must.
    """
    program = _floor(folder)
    began = time.time()
    started = []
    for one in gpus:
        seen = [one, *(other for other in gpus if other != one and all_seen)]
        own = os.environ | {
            "CUDA_VISIBLE_DEVICES": _visible(dict.fromkeys(seen)),
            "CUDA_DEVICE_MAX_CONNECTIONS": QUEUES,  # as a rank's context has
        }
        started.append(subprocess.Popen([program], env=own))
    try:
        if any(one.wait(LIMIT) for one in started):
            raise SystemExit("a bare process failed")
    finally:
        for one in started:
            one.kill()
    return (time.time() - began) * 1e3


def _floor(folder: Path) -> Path:
    """The bare program."""
    program = folder / "floor"
    if not program.exists():
        if (compiler := shutil.which("g++") or shutil.which("c++")) is None:
            raise SystemExit("there is no g++, which makes the bare process")
        command = [compiler, "-O2", START_STEPS / "floor.cpp", "-o", program, "-ldl"]
        subprocess.run(command, check=True)
    return program


def step(script: str, *arguments: object, visible: str = "", limit: float = LIMIT) -> Any:
    """What a script of the folder `steps` says, which sees GPU `visible` alone, or all."""
    command = [sys.executable, STEPS / script, *arguments]
    if visible:
        command = ["env", f"CUDA_VISIBLE_DEVICES={_visible([visible])}", *command]
    say(f"{script} {' '.join(str(a) for a in arguments[-2:])}")
    report, spent = process(*command, limit=limit)
    say(f"{script} {' '.join(str(a) for a in arguments[-2:])}: {spent / 1e3:.1f} s")
    return report


def _visible(gpus: Iterable[str]) -> str:
    """These, of the GPUs that this process sees, for a process that sees no other."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    return ",".join(names.split(",")[int(one)] if names else one for one in gpus)


def side_by_side(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each of the calls gives, which run at once.

    Where one fails, their processes are killed: they may wait for the one that it ran.
    """
    with ThreadPoolExecutor(max(1, len(calls))) as threads:
        running = [threads.submit(call) for call in calls]
        try:
            for done in as_completed(running):
                done.result()
        except BaseException:
            kill_children(os.getpid())
            raise
        return [done.result() for done in running]
