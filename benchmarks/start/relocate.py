"""What it costs that a bundle may lie anywhere: at capture, at a start, in another's place.

And a start by standby. A decoder's graphs, every figure from fresh processes; its weights are in a
file in the page cache.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from benchmarks.device import gpu
from benchmarks.report import RESULTS, Output, chosen, today, write_results
from benchmarks.start.cold import MODES, ROOT, Model, search_path, step
from foundryc.compare.bundles import differing_words
from foundryc.report import summary
from foundryrt.bundle.reader import Bundle
from foundryrt.standby import wire

ELSEWHERE = "0x640000000000"
# As in a cold start, without what other packages' .pth files import.
COMMAND = (sys.executable, "-S", "-c", "from foundryrt.start import main; main()")
PARTS = ("capture", "places", "switch", "standby")
WORKLOAD = """
import time
from dataclasses import dataclass

@dataclass(frozen=True)
class Options:
    spawned: float = 0.0

def run(session, options, json):
    begun, ready = time.time(), session.ready()
    graph = session.graph("decode", batch=1)
    graph.launch()
    launched = time.time()
    graph.tensor("logits").read_bytes()
    clock = time.time() - time.perf_counter()
    steps = {step: at + clock for step, at in session.timeline}
    steps |= {"workload": begun, "launched": launched, "logits": time.time()}
    spent = session._opened.graphs.spent
    return {
        "steps": {step: (at - options.spawned) * 1e3 for step, at in steps.items()},
        "ready": ready,
        "spent": {step: seconds * 1e3 for step, seconds in spent.items()},
    }
"""


def run(
    model: Annotated[Model, Option(help="Geometry of the decoder.")] = Model.SMALL,
    mode: Annotated[str, Option(help="eager or compile.")] = MODES[0],
    repeats: Annotated[
        int, Option(help="Processes at each place, of which medians are taken.")
    ] = 5,
    parts: Annotated[
        str, Option(help="Which to run; the others keep the results that are there.")
    ] = ",".join(PARTS),
    output: Output = RESULTS / "relocate.json",
) -> None:
    """Measure relocating, captures with proof, a switch of bundles, and starts through standby.

    Results are written after each part.
    """
    import torch

    wanted = chosen(parts, PARTS, "--parts")

    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    found = json.loads(output.read_text()) if output.exists() else {}
    report: dict[str, Any] = found | {
        "date": today(),
        "model": model.value,
        "mode": mode,
        "device": gpu(),
        "driver": gpu("driver_version"),
        "torch": torch.__version__,
    }
    with tempfile.TemporaryDirectory(dir=memory) as name:
        folder = Path(name)
        if "capture" not in wanted:
            step("capture.py", model.value, mode, folder, "prove")
        for part in (_capture, _places, _switch, _standby):
            if part.__name__[1:] in wanted:
                report |= part(model.value, mode, folder, repeats)
                write_results(output, report)


def _capture(model: str, mode: str, folder: Path, _: int) -> dict[str, Any]:
    """The whole time of a process that captures, and of one that proves what it captured."""
    seconds, made = {}, folder / f"{model}.{mode}.fdy"
    before = folder / "before.fdy"
    # The first fills caches of compilers, and is not counted.
    for way in ("first", "plain", "proved", "proved again"):
        start = time.time()
        if made.exists():
            made.replace(before)
        step("capture.py", model, mode, folder, *["prove"] * way.startswith("proved"))
        seconds[way] = time.time() - start
    with Bundle.open(before) as one, Bundle.open(made) as other:
        words = differing_words(one, other)
        proof = summary(other)["proof"]
    return {
        "capture_seconds": seconds,
        "capture_ratio": seconds["proved"] / seconds["plain"],
        "same_bytes": before.read_bytes() == made.read_bytes(),
        "differing_words": words,
        "proof": proof,
    }


def _places(model: str, mode: str, folder: Path, repeats: int) -> dict[str, Any]:
    """Processes by turns with the memory where it was and elsewhere."""
    verified = [step("replay.py", model, mode, folder, "verify", *at) for at in ((), (ELSEWHERE,))]
    runs: list[list[dict[str, Any]]] = [[], []]
    for _ in range(repeats):
        runs[0].append(step("replay.py", model, mode, folder))
        runs[1].append(step("replay.py", model, mode, folder, ELSEWHERE))

    def medians(*keys: str) -> list[float]:
        values = []
        for place in runs:
            values.append(statistics.median(one[keys[0]][keys[1]] for one in place))
        return values

    there, elsewhere = medians("marks_ms", "first_launch")
    built = medians("spent_ms", "build")
    nodes = verified[0]["nodes"]
    return {
        "nodes": nodes,
        "graphs": verified[0]["graphs"],
        "identical": [one["identical"] for one in verified],
        "different": [one["different"] for one in verified],
        "first_launch_ms": [there, elsewhere],
        "first_launch_ratio": elsewhere / there,
        "all_ready_ms": medians("marks_ms", "all_ready"),
        "build_ms": built,
        "us_per_node": (built[1] - built[0]) * 1e3 / nodes,
    }


def _switch(model: str, mode: str, folder: Path, _: int) -> dict[str, Any]:
    """All graphs of a bundle in the place of another's, while decode steps run."""
    return {"switch": step("switch.py", model, mode, folder)}


def _standby(model: str, mode: str, folder: Path, repeats: int) -> dict[str, Any]:
    """From the start of `foundryrt run --standby` to the first logits, weights loaded."""
    # The first command finds less in caches than the others.
    first, *others = _commands(model, mode, folder, repeats + 1)
    bundle = str(folder / f"{model}.{mode}.fdy")
    expected = [_commands(model, mode, folder, 1, "--bundle", bundle)[0] for _ in range(3)]
    times = [run["steps"]["logits"] for run in others]
    return {
        "standby_ms": times,
        "standby_first_launch_ms": statistics.median(times),
        "standby_timeline_ms": _medians([run["steps"] for run in others]),
        "standby_spent_ms": _medians([run["spent"] for run in others]),
        "standby_ready_at_workload": [run["ready"] for run in others],
        "standby_first_command_ms": first["steps"]["logits"],
        "standby_first_command_timeline_ms": first["steps"],
        "standby_expected_ms": [run["steps"]["logits"] for run in expected],
        "standby_expected_timeline_ms": _medians([run["steps"] for run in expected]),
    }


def _commands(
    model: str, mode: str, folder: Path, count: int, *options: str
) -> list[dict[str, Any]]:
    """What each of so many commands has found, one after another in a process that stands by."""
    workload, path = folder / "launch.py", folder / "standby.sock"
    workload.write_text(WORKLOAD)
    environment = os.environ | {"FOUNDRY_STANDBY": str(path), "PYTHONPATH": search_path()}
    standby = subprocess.Popen(
        [*COMMAND, "standby", *options], env=environment, cwd=ROOT, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        assert standby.stderr is not None
        if "standing by" not in (said := standby.stderr.readline()):
            raise SystemExit(f"standby: {said}{standby.stderr.read()}")
        bundle = folder / f"{model}.{mode}.fdy"
        asked = [*COMMAND, "run", bundle, "--standby", "--json", "--workload", workload]
        runs = []
        for _ in range(count):
            handed = _handed_over_ms(folder, asked)
            done = subprocess.run(
                [*asked, "--spawned", repr(time.time())],
                env=environment, cwd=ROOT, check=True, capture_output=True, text=True,
            )  # fmt: skip
            run = json.loads(done.stdout)
            runs.append(run | {"steps": {"handed over": handed} | run["steps"]})
    finally:
        standby.send_signal(signal.SIGINT)
        standby.wait(30)
    return runs


def _medians(each: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of dictionaries of one kind, key by key."""
    return {key: statistics.median(one[key] for one in each) for key in each[0]}


def _handed_over_ms(folder: Path, command: list[Any]) -> float:
    """From the start of a client until its words are here; nothing is run."""
    place = folder / "listener.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.settimeout(60)
        listener.listen()
        spawned = time.time()
        environment = os.environ | {"FOUNDRY_STANDBY": str(place), "PYTHONPATH": search_path()}
        client = subprocess.Popen(command, env=environment, cwd=ROOT)
        connection, _ = listener.accept()
        with connection:
            _, files = wire.receive(connection, 3)
            handed = time.time()
            for file in files:
                os.close(file)
            wire.send(connection, "exit", "0")
        client.wait(30)
    place.unlink()
    return (handed - spawned) * 1e3
