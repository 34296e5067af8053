"""A server goes on with more ranks: from the command to the first token of an answer by them.

Bundle and weights are at hand, as files. The server is ours; before and after, its answers are the
same.
"""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from typer import BadParameter, Option

from benchmarks.device import check_gpus, gpu
from benchmarks.parallel.run import NAMES, side_by_side
from benchmarks.report import RESULTS, Output, Report, chosen, say, today
from benchmarks.serving.serve import Alarm
from benchmarks.serving.servers import Server, Setup, capture, switch, write_model

CAPTURE = "--max-rounds 0 --evidence 0 --judge-prompt ok? --yes a --no b"
LARGE, TINY = "--slots 16 --prefill 256 --dtype bfloat16", "--slots 4 --prefill 16"
_LIMIT = 240.0
"""Seconds of a step."""


def run(
    model: Annotated[str, Option(help="Its geometry.")] = "qwen3-14b",
    before: Annotated[int, Option("--from", help="Ranks at the start.")] = 2,
    after: Annotated[int, Option("--to", help="Ranks afterwards.")] = 4,
    repeats: Annotated[int, Option(help="Servers, one after the other.")] = 2,
    folder: Annotated[Path, Option(help="Model and bundles are made, or found, here.")] = Path(
        "build/serve"
    ),
    limit: Annotated[float, Option(help="Seconds for all.")] = 290,
    tiny: Annotated[bool, Option("--tiny", help="A toy model on the CPU.")] = False,
    output: Output = RESULTS / "tp.json",
) -> None:
    """Measure how long a change of ranks takes; written after each server."""
    if tiny and output.parent == RESULTS:
        raise BadParameter("figures of toy models mean nothing: give --output", param_hint="--tiny")
    if not tiny:
        check_gpus(range(max(before, after)))
    with Alarm(limit):
        name = "tiny" if tiny else chosen(model, tuple(NAMES), "--model")[0]
        place = folder.resolve() / name
        say(f"{name}: the model's folder")
        write_model(name, place, "cpu" if tiny else "cuda", _LIMIT)
        cores = frozenset(os.sched_getaffinity(0))
        logs = output.resolve().parent / "serve-logs"
        # Bundles lie beside the model: not where the benchmark `serve` has its own.
        apart = place.parent / "degree" / name
        apart.parent.mkdir(exist_ok=True)
        if not apart.exists():
            apart.symlink_to(place)
        options = shlex.split(f"{TINY if tiny else LARGE} {CAPTURE}")
        small = Setup(apart, 64 if tiny else 512, options, "", logs, cores, before)
        large = replace(small, ranks=after)
        missing = [setup for setup in (small, large) if not setup.bundle.exists()]
        say(f"captures for {', '.join(str(setup.ranks) for setup in missing) or 'none'}")
        took = side_by_side([
            partial(capture, setup, "host" if tiny else "cuda", _LIMIT) for setup in missing
        ])  # fmt: skip
        for setup, seconds in zip(missing, took, strict=True):
            say(f"{setup.ranks} ranks: captured in {seconds:.1f} s")
        runs: list[dict[str, Any]] = []
        report = Report(output, {"date": today(), "device": "CPU" if tiny else gpu()})
        for _ in range(repeats):
            runs.append(_change(small, large))
            say(str(runs[-1]))
            best = sorted(runs, key=lambda one: float(one["switch_s"]))[(len(runs) - 1) // 2]
            report.save(f"switch_{before}_{after}", {"model": name, **best, "runs": runs})
        shutil.rmtree(logs, ignore_errors=True)


def _change(small: Setup, large: Setup) -> dict[str, Any]:
    """One server's: seconds until the command was done, and until the first token after it."""
    prompt = list(range(1, 9))
    with Server(small, "ours") as server:
        started = server.first_token(prompt, _LIMIT)
        _, alone = _first_token(server, prompt)
        began = time.monotonic()
        report = switch(large, server.port, _LIMIT)
        switched = time.monotonic()
        came, _ = _first_token(server, prompt)
    if report["ranks"] != large.ranks:
        raise SystemExit(f"{report['ranks']} ranks serve, {large.ranks} were asked for")
    return {
        "start_s": started, "first_token_ms": alone * 1e3, "switched_s": switched - began,
        "switch_s": came - began, "report": report,
    }  # fmt: skip


def _first_token(server: Server, prompt: Sequence[int]) -> tuple[float, float]:
    """When the first token of an answer came, and the seconds that it took."""
    began = time.monotonic()
    came = server.ask(prompt, _LIMIT)
    if came is None:
        raise SystemExit("the server gave no answer")
    return came, came - began
