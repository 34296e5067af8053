"""Ways to add up many rows over ranks, and phases of one alone, beside NCCL.

Arguments: capture, bundle, ranks, KiB at most, which (words, flags or phases); or time, bundle,
devices.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.parallel.steps.sizes import WIDTH

COUNT, LAUNCHES, TRIES = 20, 3, 5
SIZES = (1 << 20, 16 << 20, 64 << 20)


def capture(path: Path, world: int, largest: int, which: str) -> None:
    import torch

    from benchmarks.parallel.steps import exchange_variants as variants
    from foundryc.recorder import Recorder
    from parse_runtime.kernels.cuda.reduce import all_reduce

    ways: dict[str, Callable[..., Any]] = {}
    if which == "words":
        plain = {"quads": False, "rotate": False, "sample": False}
        ways["as it is"] = all_reduce
        for name, block, warps, how in (
            ("wide loads 256/2", 256, 2, plain),
            ("and stores 256/2", 256, 2, plain | {"quads": True}),
            ("and rotated 256/2", 256, 2, {"sample": False}),
            ("sampled, narrow stores 256/2", 256, 2, {"quads": False}),
            ("all 256/2", 256, 2, {}),
            ("all 512/4", 512, 4, {}),
            ("all 1024/8", 1024, 8, {}),
            ("all 1024/4", 1024, 4, {}),
            ("all 512/2", 512, 2, {}),
        ):
            ways[name] = partial(variants.all_reduce, block=block, warps=warps, **how)
    elif which == "flags":
        for block, warps in ((512, 4), (1024, 8), (2048, 8)):
            for pull, sums in ((False, False), (False, True), (True, True)):
                name = f"{'pull' if pull else 'push'}, {'pull' if sums else 'push'} {block}/{warps}"
                ways[name] = partial(
                    variants.by_flags, block=block, warps=warps, pull=pull, pull_sums=sums
                )
    else:
        for phase in variants.PHASES:
            for block, warps in ((256, 2), (1024, 8)):
                ways[f"{phase} {block}/{warps}"] = partial(
                    variants.all_reduce, block=block, warps=warps, phase=phase
                )
        ways["push, narrow 256/2"] = partial(
            variants.all_reduce, block=256, warps=2, phase="push", quads=False
        )
    recorder = Recorder("cuda", "exchanges", {"which": which})
    ranks = recorder.ranks(world, 2 * largest if which == "flags" else largest)
    rows = largest // 2 // WIDTH
    x = recorder.register("x", torch.zeros(rows, WIDTH // 2, dtype=torch.int32), "state")
    sizes = [size for size in SIZES if size <= largest]
    with torch.inference_mode():
        own = x.view(torch.bfloat16)
        with recorder.warm_up():
            for run in ways.values():
                run(own[:8], ranks)
        for name, run in ways.items():
            for size in sizes:
                with recorder.graph(name, bytes=size) as graph:
                    for _ in range(COUNT):
                        found = run(own[: size // 2 // WIDTH], ranks)
                    graph.output("sum", found.view(torch.int32))
        recorder.save(path)


def measure(path: Path, devices: list[int]) -> None:
    from foundryrt import Session
    from foundryrt.ranks.followers import Followers

    found: dict[str, dict[str, float]] = {}
    with (
        Followers.start(str(path), len(devices), devices) as followers,
        Session.open(str(path), followers=followers) as session,
    ):
        session.wait()
        x = np.random.default_rng(1).integers(-8, 9, session.read("x").size * 2)
        words = as_words(x).reshape(session.read("x").shape)
        session.write("x", words)
        for name, key in session.graphs:
            graph, times = session.graph(name, **key), []
            for _ in range(TRIES):
                session.synchronize()
                began = time.perf_counter()
                for _ in range(LAUNCHES):
                    graph.launch()
                session.synchronize()
                times.append((time.perf_counter() - began) / LAUNCHES / COUNT)
            row = found.setdefault(name, {})
            row[f"{key['bytes'] >> 20} MiB"] = round(median(times[1:]) * 1e6, 2)
            if session.settings["which"] != "phases":
                sums = graph.read("sum").view(np.uint16).ravel()
                values = (sums.astype(np.uint32) << 16).view(np.float32)
                wrong = int((values != x[: values.size] * len(devices)).sum())
                if wrong:
                    row[f"wrong of {values.size}"] = wrong
            print(name, key["bytes"], row, file=sys.stderr)
    print(json.dumps({session.settings["which"]: found}, indent=1))


def as_words(x: np.ndarray) -> np.ndarray:
    """Small whole numbers as bfloat16, two a word."""
    return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.int32)


if __name__ == "__main__":
    if sys.argv[1] == "capture":
        capture(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]) << 10, sys.argv[5])
    else:
        measure(Path(sys.argv[2]), [int(one) for one in sys.argv[3].split(",")])
