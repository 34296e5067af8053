"""What a token costs our server's process on the CPU, from the pass to the socket.

The passes compute nothing (`stub.py`). Processor time is taken at slow steps, so that each token is
a chunk of its own. `--before` names another checkout, measured by turns.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from benchmarks.device import cpu
from benchmarks.report import RESULTS, Output, say, today, write_results
from benchmarks.serving.load import Plan
from benchmarks.serving.servers import ROOT
from benchmarks.serving.text_files import PIECES, write_text

VOCABULARY, PROMPT, FEW, TOKENS = 151_936, 256, 2, 128
SLOW_MS = 20.0
_LIMIT = 120.0
"""Seconds of a load."""


@dataclass(frozen=True)
class Stub:
    """A server that runs."""

    process: subprocess.Popen[str]
    port: int

    def busy_us(self) -> float:
        """Processor time of its threads so far, in microseconds."""
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e3


def run(
    streams: Annotated[str, Option(help="Answers at a time.")] = "64,256",
    before: Annotated[Path | None, Option(help="Another checkout, to compare with.")] = None,
    rounds: Annotated[int, Option(help="Loads, of which medians are taken.")] = 7,
    step_ms: Annotated[float, Option(help="Of a device that is to wait for nothing.")] = 2.5,
    output: Output = RESULTS / "serve_host.json",
) -> None:
    """Measure processor time a token, and what a step of 64 takes beyond the device's."""
    trees = {"after": ROOT} | ({"before": before.resolve()} if before else {})
    result: dict[str, Any] = {
        "device": cpu(), "date": today(), "rounds": rounds, "prompt": PROMPT, "answer": TOKENS,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_text(VOCABULARY, folder)
        for count in map(int, streams.split(",")):
            found = measure(folder, trees, count, rounds, SLOW_MS)
            for what in ("request", "token") if before else ():
                own = [found[tree][f"us_per_{what}"] for tree in ("before", "after")]
                found[f"{what}_times_cheaper"] = own[0] / own[1]
            result[f"streams_{count}"] = {"step_ms": SLOW_MS, **found}
            write_results(output, result)
        found = measure(folder, trees, 64, rounds, step_ms)
        for tree in trees:
            found[tree]["beyond_us"] = (found[tree]["ms_per_token"] - step_ms) * 1e3
        result["step_of_64"] = {"step_ms": step_ms, **found}
        write_results(output, result)


def measure(
    folder: Path, trees: dict[str, Path], streams: int, rounds: int, step_ms: float
) -> dict[str, Any]:
    """Medians of each tree's rounds; the first round of each is not counted."""
    rows: dict[str, list[dict[str, float]]] = {tree: [] for tree in trees}
    with ExitStack() as stack:
        stubs = {
            name: stack.enter_context(serving(tree, folder, streams, step_ms * 1e-3))
            for name, tree in trees.items()
        }
        for number in range(rounds + 1):
            for name, stub in stubs.items():
                short = load(stub, folder, streams, number, FEW)
                long = load(stub, folder, streams, number, FEW + TOKENS)
                row = {
                    # Of a request with its first tokens, and of each further one.
                    "us_per_request": short["busy_us"],
                    "us_per_token": (long["busy_us"] - short["busy_us"]) / TOKENS,
                    "tokens_per_chunk": long["tokens_per_chunk"],
                    "ms_per_token": long["ms_per_token"],
                }
                say(f"{streams} streams, {name}: {row}")
                if number:
                    rows[name].append(row)
    return {
        name: {key: statistics.median(row[key] for row in own) for key in own[0]}
        for name, own in rows.items()
    }


@contextmanager
def serving(tree: Path, folder: Path, streams: int, step: float) -> Iterator[Stub]:
    """A server of a checkout."""
    stub = Path(__file__).with_name("stub.py")
    # Without `site`, whose .pth files may put an editable install before all else.
    path = os.pathsep.join((str(tree), sysconfig.get_path("purelib")))
    process = subprocess.Popen(
        [sys.executable, "-S", str(stub), str(folder), str(streams), str(step)],
        cwd=tree, env=os.environ | {"PYTHONPATH": path}, text=True, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        port = re.search(r"listening on http://127.0.0.1:(\d+)/", line)
        if port is None:
            raise SystemExit(f"{tree}: the server does not begin: {line}{process.stderr.read()}")
        yield Stub(process, int(port[1]))
    finally:
        process.terminate()
        process.wait(60)


def load(stub: Stub, folder: Path, streams: int, seed: int, tokens: int) -> dict[str, float]:
    """Processor time of a request, in microseconds, with an answer of so many tokens."""
    plan = Plan(
        port=stub.port, model="model", prompt=PROMPT, tokens=tokens, seed=seed, limit=_LIMIT,
        pieces=str(folder / PIECES), requests=streams * (2 if tokens > FEW else 6),
        concurrent=streams,
    )  # fmt: skip
    before = stub.busy_us()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving.load"], cwd=ROOT, text=True, check=True,
        input=json.dumps(asdict(plan)), stdout=subprocess.PIPE,
    )  # fmt: skip
    busy = (stub.busy_us() - before) / plan.requests
    found = json.loads(done.stdout)
    if found["right"] != plan.requests:
        raise SystemExit(f"answers are wrong: {found}")
    return {
        "busy_us": busy, "tokens_per_chunk": found["tokens_per_chunk"],
        "ms_per_token": found["time_per_token_ms"]["p50"],
    }  # fmt: skip
