"""Bundles and workloads of several ranks, and the processes that run them."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from foundryc.recorder import Recorder

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-c", "from foundryrt.start import main; main()")
WIDTH = 300_000
"""Elements of an input that takes several records."""
WORKLOAD = """
import json, os, signal, sys, threading, time
from dataclasses import dataclass
import numpy as np

@dataclass(frozen=True)
class Options:
    launches: int = 10
    wait: bool = False

Serving = Options

def run(session, options, json):
    session.write("x", np.arange(5, dtype=np.float32))
    launch = session.graph("add").launch
    for _ in range(options.launches):
        launch()
    print("ready", flush=True)
    while options.wait:
        launch()
        time.sleep(0.001)
    return {"total": session.read("total").tolist()}

def serve(session, options):
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    print("ready", flush=True)
    ended.wait()
    print("stopped", flush=True)
"""


def record(path: Path, world: int, extra: float = 0.0) -> Path:
    """Graphs whose results depend on what every rank sends; rank r adds r to what it has."""
    with Recorder(target="host", workload="ranks", settings={"extra": extra}) as recorder:
        ranks = recorder.ranks(world, 1024)
        x = recorder.register("x", torch.zeros(5), role="input")
        total = recorder.register("total", torch.zeros(5), role="state")
        large = recorder.register("large", torch.zeros(WIDTH, dtype=torch.int32), role="input")
        place = recorder.register("place", torch.zeros(1, dtype=torch.int64), role="input")
        rank = ranks.words[0]
        with recorder.graph("parts") as graph:
            graph.output("parts", ranks.all_gather(x + rank))
        with recorder.graph("add") as graph:
            total += ranks.all_gather(x + rank).sum(0)
        with recorder.graph("large") as graph:
            mine = (large.sum() * (rank + 1)).float().reshape(1)
            graph.output("sums", ranks.all_gather(mine))
        with recorder.graph("faulty") as graph:
            # Out of range on every rank but 0.
            graph.output("row", ranks.all_gather(x.index_select(0, place * rank)))
        recorder.save(path)
    return path


def parts(x: np.ndarray, world: int) -> np.ndarray:
    """What `parts` gives."""
    return np.stack([x + rank for rank in range(world)])


def start(words: list[str], folder: Path, **environment: str) -> subprocess.Popen[str]:
    """`foundryrt` with these arguments and the workload above."""
    workload = folder / "work.py"
    workload.write_text(WORKLOAD)
    return subprocess.Popen(
        [*COMMAND, *words, "--workload", str(workload)], text=True, cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | environment,
        start_new_session=True,
    )  # fmt: skip


def followers(parent: int) -> dict[int, int]:
    """The processes of other ranks that `parent` has started, by rank."""
    return {rank: process for process, rank in ranks_of(parent).items()}


def ranks_of(parent: int) -> dict[int, int]:
    """The ranks of such processes, by process: those of several sessions, too."""
    found = {}
    for folder in Path("/proc").iterdir():
        # Processes of others may end meanwhile.
        with suppress(FileNotFoundError, ProcessLookupError):
            if not folder.name.isdigit() or not alive(int(folder.name)):
                continue
            if _stat(folder)[1] == str(parent) and (rank := _rank(folder)):
                found[int(folder.name)] = rank
    return found


def _rank(folder: Path) -> int:
    """0 for other processes. A fork has no name of its own before it has imported what it needs."""
    words = (folder / "cmdline").read_text().split("\0")
    if "foundryrt.ranks.begin" in words:
        rank = next(word for word in words if word.startswith("--rank="))
        return int(rank.partition("=")[2])
    name, _, number = (folder / "comm").read_text().rpartition("-")
    return int(number) if name == "foundry-rank" else 0


def alive(process: int) -> bool:
    """Whether the process runs; one that has ended may still wait for its parent."""
    try:
        return _stat(Path(f"/proc/{process}"))[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _stat(folder: Path) -> list[str]:
    return (folder / "stat").read_text().rpartition(")")[2].split()
