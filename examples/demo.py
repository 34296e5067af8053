"""Captures and runs both workloads on this machine's CPU, then shows what happened as one page.

    make demo        # or, in an environment with all extras: python examples/demo.py

It needs no GPU and takes two to three minutes. The page is demo/index.html; it needs no network.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo_page import demo_page

from foundryrt.bundle.reader import Bundle
from foundryrt.session import Session
from foundryrt.workload import find_run

ROOT = Path(__file__).parents[1]
ARITH = "benchmarks/arith/weights"
MODELS = (
    f"--model {ARITH}/target --draft {ARITH}/draft --judge-prompt ? --cut-at sentence --stride 8"
    " --max-len 208 --prefill 16,64 --verify 96x10,192x12"
)
PROBLEM = "694 a+724 b*007 c-067 d+317 e*007 f-838"
SOLVE = f'--prompt "{PROBLEM}" --max-new-tokens 120'


@dataclass(frozen=True)
class Step:
    """A bundle to capture and to run, with the options of both commands."""

    name: str
    capture: str
    run: str


STEPS = (
    Step("otfs", "--grid 1024x32", "--frames 30 --snr 20"),
    Step("parse", "--model smollm2", '--prompt "Name three rivers of Europe." --max-new-tokens 48'),
    Step("arith", MODELS, SOLVE),
)


def main(folder: Path) -> None:
    """Everything, into `folder`; CalledProcessError where a step fails."""
    os.chdir(ROOT)
    folder.mkdir(parents=True, exist_ok=True)
    seconds, results, starts = {}, {}, {}
    for step in STEPS:
        bundle = folder / f"{step.name}.fdy"
        begin = time.perf_counter()
        command("foundryc", f"capture {step.capture} --target host -o {bundle}")
        seconds[step.name] = time.perf_counter() - begin
        results[step.name] = asked(f"run {bundle} {step.run} --json")
        print(line_about(results[step.name]))
        starts[step.name] = json.loads(child(["start", str(bundle)]))
    # With nothing to fail, the whole draft is kept: that is how to see it.
    draft = asked(f"run {folder / 'arith.fdy'} {SOLVE} --threshold 0 --json")
    with ExitStack() as closing:
        bundles = {
            step.name: closing.enter_context(Bundle.open(folder / f"{step.name}.fdy"))
            for step in STEPS
        }
        commands = {
            step.name: f"foundryc capture {step.capture} -o {step.name}.fdy\n"
            f"foundryrt run {step.name}.fdy {step.run}"
            for step in STEPS
        }
        machine = f"{platform.machine()}, Python {platform.python_version()}"
        page = demo_page(
            bundles, commands, seconds, starts, results, draft["text"], PROBLEM, machine
        )
    (folder / "index.html").write_text(page, encoding="utf-8")
    print(f"\nWhat was captured and how it ran: {folder / 'index.html'}")


def command(name: str, arguments: str, **options: Any) -> str:
    """Run one of the two commands as a user would; what it writes on stdout where captured."""
    print(f"\n$ {name} {arguments}", flush=True)
    entry = {"foundryc": "foundryc.cli", "foundryrt": "foundryrt.start"}[name]
    code = f"import sys; sys.argv[0] = {name!r}; from {entry} import main; main()"
    line = [sys.executable, "-c", code, *shlex.split(arguments)]
    return str(subprocess.run(line, check=True, text=True, **options).stdout)


def asked(arguments: str) -> dict[str, Any]:
    """The results of `foundryrt run ... --json`."""
    found: dict[str, Any] = json.loads(command("foundryrt", arguments, stdout=subprocess.PIPE))
    return found


def child(arguments: list[str]) -> str:
    """This program in a fresh process: how long a start takes is only seen there."""
    line = [sys.executable, __file__, *arguments]
    return subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout


def line_about(result: dict[str, Any]) -> str:
    """What a run gave, in a line."""
    if "ber" in result:
        return f"{result['frames']} frames, bit error rate {result['ber']:.2e}"
    kept = f"{result['accepted']} of {result['drafted']} drafted tokens kept"
    return f"{result['text']}\n({kept}, {result['tokens_per_second']:.1f} tokens/s)"


def start(path: str) -> dict[str, Any]:
    """Seconds of opening a bundle and of its first graph's launches; a receiver's symbols."""
    begin = time.perf_counter()
    with Session.open(path) as session:
        times = [time.perf_counter() - begin]
        name, key = session.graphs[0]
        graph = session.graph(name, **key)
        for _ in range(3):
            begin = time.perf_counter()
            graph.launch()
            session.synchronize()
            times.append(time.perf_counter() - begin)
        found: dict[str, Any] = dict(zip(("open", "first", "second", "third"), times, strict=True))
        if session.workload == "otfs":
            driver = find_run("otfs")
            driver.run(session, driver.Options(frames=2, snr=20.0), True)
            symbols = graph.read("symbols")[:4000]
            found["symbols"] = [[round(float(s.real), 3), round(float(s.imag), 3)] for s in symbols]
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["start"]:
        print(json.dumps(start(sys.argv[2])))
    else:
        main(Path(*sys.argv[1:2] or ["demo"]))
