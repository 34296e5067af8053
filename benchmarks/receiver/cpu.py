"""The receiver on the CPU, as bundles of the host target: native operators beside torch's.

A frame's time is that of one launch, samples copied in, LLRs (float32) and bits copied out. The
receivers take turns, and the best of their launches counts: other processes only ever add time.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from typer import BadParameter, Option

from benchmarks.device import cpu
from benchmarks.report import RESULTS, Output, chosen, say, today, write_results
from foundryc.recorder import Recorder
from foundryrt.native import zak_core
from foundryrt.parallel import available_threads
from foundryrt.session import Session
from otfs_pipeline import capture
from otfs_pipeline.frames import source
from otfs_pipeline.link.frame import payload_bits
from otfs_pipeline.receiver.eager import Receiver
from otfs_pipeline.receiver.tables import tables
from otfs_pipeline.settings import Settings
from otfs_pipeline.signature import GRAPH, signature
from otfs_pipeline.study.bootstrap import interval

GRID = "1024x32"
GRIDS = ("256x32", "1024x32", "4096x32", "16384x32")


class Before(Receiver):
    """The host target's receiver before it had native operators."""

    def energy(self, z: torch.Tensor) -> torch.Tensor:
        norm: torch.Tensor = torch.linalg.vector_norm(z)
        return norm.square()


def in_torch(kind: type[Receiver]) -> Callable[[Recorder, Settings], None]:
    """Records a receiver of torch operators, as `capture.record` does the native one."""

    def record(recorder: Recorder, settings: Settings) -> None:
        samples = recorder.register(
            "samples", torch.zeros(settings.q, dtype=torch.complex64), role="input"
        )
        constants = {
            name: recorder.register(name, torch.from_numpy(value), role="constant")
            for name, value in tables(settings).items()
        }
        with torch.no_grad(), recorder.graph(GRAPH) as graph:
            results = kind(settings, constants)(samples)
            for name in signature(settings).outputs:
                graph.output(name, results[name])

    return record


RECORDS = {"native": capture.record, "before": in_torch(Before), "torch_dot": in_torch(Receiver)}
# Launches of each in a round: about as long for all.
LAUNCHES = {"native": 40, "before": 1, "torch_dot": 2}


@dataclass(frozen=True)
class Open:
    """A bundle's receiver, and what it took."""

    launch: Callable[[np.ndarray], dict[str, np.ndarray]]
    seconds: list[float]


def opened(name: str, settings: Settings, folder: Path, stack: ExitStack) -> Open:
    """A receiver captured, and opened as `foundryrt run` opens it."""
    path = folder / f"{name}-{settings.grid}.fdy"
    with Recorder(target="host", workload="otfs", settings=asdict(settings)) as recorder:
        RECORDS[name](recorder, settings)
        recorder.save(path)
    session = stack.enter_context(Session.open(path))
    pipeline = session.graph(GRAPH).pipeline(("samples",), ("llr", "bits", "variance"), depth=1)

    def launch(samples: np.ndarray) -> dict[str, np.ndarray]:
        pipeline.submit(0, {"samples": samples})
        return dict(pipeline.wait(0))

    launch(np.zeros(settings.q, np.complex64))
    return Open(launch, [])


def timed(receivers: dict[str, Open], frames: list[np.ndarray], rounds: int) -> list[float]:
    """Fills in the seconds of launches in turns; the machine's load before each round."""
    loads = []
    for number in range(rounds):
        loads.append(os.getloadavg()[0])
        for name, receiver in receivers.items():
            for index in range(LAUNCHES[name]):
                samples = frames[(number + index) % len(frames)]
                begun = time.perf_counter()
                receiver.launch(samples)
                receiver.seconds.append(time.perf_counter() - begun)
    return loads


def times(seconds: list[float]) -> dict[str, float]:
    """Of one receiver's launches."""
    best, median = min(seconds), float(np.median(seconds))
    return {"best_ms": 1e3 * best, "median_ms": 1e3 * median, "launches": len(seconds)}


def quality(
    settings: Settings, receivers: dict[str, Open], snr: float, count: int
) -> dict[str, Any]:
    """BER of both on the same frames, the interval of the difference, and how far LLRs differ."""
    errors: list[tuple[float, float]] = []
    differ, apart = [], []
    for index in range(count):
        frame = source.simulate(settings, snr, 1, index)
        native, before = (
            {k: np.copy(v) for k, v in receivers[name].launch(frame.samples).items()}
            for name in ("native", "before")
        )
        errors.append(
            tuple(float(np.mean(r["bits"].ravel() != frame.bits)) for r in (native, before))
        )
        differ.append(float(np.mean(native["bits"] != before["bits"])))
        scale = np.median(np.abs(before["llr"]))
        apart.append(float(np.median(np.abs(native["llr"] - before["llr"])) / scale))
    rows = np.array(errors)
    return {
        "snr_db": snr,
        "frames": count,
        "ber_native": float(rows[:, 0].mean()),
        "ber_before": float(rows[:, 1].mean()),
        "ber_before_interval": interval(rows[:, 1:], lambda r: float(r.mean())),
        "ber_difference_interval": interval(rows, lambda r: float((r[:, 0] - r[:, 1]).mean())),
        "bits_that_differ": float(np.mean(differ)),
        "median_llr_change_over_median_llr": float(np.mean(apart)),
    }


def run(
    output: Output = RESULTS / "otfs_cpu.json",
    threads: Annotated[int, Option(min=1, help="Threads of a launch.")] = 2,
    rounds: Annotated[int, Option(min=1, help="Turns that the receivers take.")] = 20,
    frames: Annotated[int, Option(min=2, help="Frames for the BER at each SNR.")] = 16,
    grids: Annotated[str, Option(help="Grids whose native times are measured too.")] = ",".join(
        GRIDS
    ),
) -> None:
    """Measure the receiver on the CPU; give it as many free cores as threads."""
    names = chosen(grids, GRIDS, "--grids")
    if threads > available_threads():
        raise BadParameter(
            f"{threads}: only {available_threads()} here (OMP_NUM_THREADS, processors)",
            param_hint="--threads",
        )
    torch.set_num_threads(threads)
    about = {
        "device": cpu(),
        "date": today(),
        "threads": threads,
        "lanes": zak_core.lanes(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
    }
    with tempfile.TemporaryDirectory() as folder:
        head = measured(Settings(grid=GRID), Path(folder), list(RECORDS), rounds, frames)
        others = {}
        for name in names:
            if name != GRID:
                others[name] = measured(Settings(grid=name), Path(folder), ["native"], rounds, 0)
    native, before = head["native"]["best_ms"], head["before"]["best_ms"]
    result = {
        **about,
        "frame_over_deadline": native / head["deadline_ms"],
        "frame_over_before": native / before,
        "median_frame_over_deadline": head["native"]["median_ms"] / head["deadline_ms"],
        **head,
        "other_grids": others,
    }
    write_results(output, result)


def measured(
    settings: Settings, folder: Path, names: list[str], rounds: int, frames: int
) -> dict[str, Any]:
    """Times of some receivers of a grid, and, for a number of frames, how well they receive."""
    say(f"{settings.grid}: {', '.join(names)}")
    with ExitStack() as stack:
        receivers = {name: opened(name, settings, folder, stack) for name in names}
        made = [source.simulate(settings, 20.0, 0, index).samples for index in range(4)]
        loads = timed(receivers, made, rounds if settings.m < 4096 else max(1, rounds // 8))
        found: dict[str, Any] = {
            "grid": settings.grid,
            "deadline_ms": 1e3 * settings.frame_seconds,
            "payload_bits": payload_bits(settings),
            "load_average": {"least": min(loads), "most": max(loads)},
            **{name: times(receiver.seconds) for name, receiver in receivers.items()},
        }
        if frames:
            say(f"{settings.grid}: bit error rates of {frames} frames")
            found["quality"] = [
                quality(settings, receivers, snr, frames) for snr in (15.0, 20.0, 25.0)
            ]
    return found
