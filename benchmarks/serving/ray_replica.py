"""A replica through Ray Serve, from none to its first token, beside the server's own start.

Of the deployment examples/deploy/ray_serve.py, on the CPU: a replica that serves by itself, in a
new worker of Ray or in one that Ray has started ahead, and one whose server is a process that
stands by. Needs Ray beside what serving needs.
"""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from importlib import import_module, reload
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from benchmarks.device import cpu
from benchmarks.report import RESULTS, Output, say, today, write_results
from benchmarks.serving.random_model import capture_some, write_pair
from benchmarks.serving.servers import ROOT, Server, Setup, first_text, free_port, program
from benchmarks.serving.stream import request

_PROMPT = [70, 71, 72]
_CPUS = 2
"""Processors that Ray is told of, and so workers that it starts ahead, once.

Its controller and its proxy take two; with more, each replica takes another one.
"""
_LIMIT = 120.0
"""Seconds for a start, and for Ray to end a replica."""
_FORMAT = "%Y-%m-%d %H:%M:%S,%f"
_TIME = r"(\d+-\d+-\d+ \d+:\d+:\d+,\d+) .*"
_DECISION = re.compile(_TIME + r"[Uu]pscaling .* from 0 to 1 ")
"""In the log of Serve's controller."""
_STEPS = {
    "begins": re.compile(_TIME + "Started initializing replica"),
    "constructed": re.compile(_TIME + "Finished initializing replica"),
}
"""In the log of a replica: its process has imported Ray and the deployment; the bundle is open."""


def run(
    rounds: Annotated[int, Option(help="Starts of each, of which medians are taken.")] = 3,
    output: Output = RESULTS / "serve_ray.json",
) -> None:
    """Measure how long a replica takes through Ray Serve, over what the process itself takes."""
    with tempfile.TemporaryDirectory() as name:
        folder, load = Path(name), os.getloadavg()[0]
        write_pair(folder)
        bundle = capture_some(folder, 4, ["one"])["one"]
        own, found = [], {}
        for way, cpus in (("alone", _CPUS), ("ahead", _CPUS + rounds), ("standby", _CPUS)):
            # While no Ray runs, whose processes take time from it.
            own += [_own(folder) for _ in range(rounds)]
            with ExitStack() as closing:
                socket = folder / "standby.sock" if way == "standby" else None
                if socket:
                    memory = closing.enter_context(_standing_by(folder, bundle, socket))
                deployment = closing.enter_context(_deployed(bundle, socket, cpus))
                found[way] = [deployment.replica() for _ in range(rounds)]
            say(f"foundryrt serve {own[-rounds:]}; Ray Serve, {way}: {found[way]}")
    start = statistics.median(own)
    result = {
        "device": cpu(), "date": today(), "ray": version("ray"), "load_before": load,
        "own_start_s": own, "replicas": found, "standby_mb": memory,
        "ratios": {way: _ratios(through, start) for way, through in found.items()},
    }  # fmt: skip
    write_results(output, result)


def _ratios(replicas: list[dict[str, float]], start: float) -> dict[str, float]:
    """Medians over the process's own start."""
    keys = ("from_decision_s", "from_request_s")
    return {key[:-2]: statistics.median(one[key] for one in replicas) / start for key in keys}


@contextmanager
def _standing_by(folder: Path, bundle: Path, socket: Path) -> Iterator[float]:
    """A process that stands by on the host target and expects the bundle; its memory in MB."""
    command = [*program("foundryrt.start"), "standby", "--host", "--socket", str(socket)]
    log = folder / "standby.log"
    with log.open("w") as file:
        process = subprocess.Popen([*command, "--bundle", str(bundle)], cwd=ROOT, stderr=file)
    try:
        end = time.monotonic() + _LIMIT
        while "standing by" not in log.read_text():
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"nothing stands by: {log.read_text()}")
            time.sleep(0.1)
        status = Path(f"/proc/{process.pid}/status").read_text()
        yield int(status.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(_LIMIT)


def _own(folder: Path) -> float:
    """Seconds from the start of `foundryrt serve` to its first token."""
    setup = Setup(
        folder / "one", max_len=0, capture=(), vllm_path="", logs=folder,
        cores=frozenset(os.sched_getaffinity(0)),
    )  # fmt: skip
    with Server(setup, "ours") as server:
        return server.first_token(_PROMPT, _LIMIT)


@contextmanager
def _deployed(bundle: Path, standby: Path | None, cpus: int) -> Iterator[Deployment]:
    """The deployment, without a replica yet, in a Ray of its own."""
    import ray
    from ray import serve

    # Ray's processes have this one's environment.
    own = {"PARSE_BUNDLE": bundle, "PARSE_STANDBY": standby or "", "PYTHONPATH": ROOT}
    os.environ |= {name: str(value) for name, value in own.items()}
    context = ray.init(
        num_cpus=cpus, include_dashboard=False, logging_level="error",
        # By default as many as the machine has processors.
        _system_config={"worker_maximum_startup_concurrency": cpus},
    )  # fmt: skip
    try:
        port = free_port()
        serve.start(http_options={"port": port})
        # What it is depends on the environment.
        serve.run(reload(import_module("examples.deploy.ray_serve")).app)
        yield Deployment(port, Path(context.address_info["session_dir"]))
    finally:
        serve.shutdown()
        ray.shutdown()


class Deployment:
    """From none to one replica and back."""

    def __init__(self, port: int, session: Path) -> None:
        self._port, self._logs = port, session / "logs" / "serve"

    def replica(self) -> dict[str, float]:
        """Seconds from a request, and from the decision to scale, to the first token."""
        self._wait_for_none()
        body: dict[str, Any] = {"prompt": _PROMPT, "max_tokens": 2, "ignore_eos": True}
        begun = time.time()
        if (
            first_text(self._port, request("/v1/completions", body | {"stream": True}), _LIMIT)
            is None
        ):
            raise SystemExit(f"the deployment does not answer; see {self._logs}")
        came = time.time()
        decided = self._moment("controller", _DECISION, begun)
        steps = {name: self._moment("replica", step, begun) for name, step in _STEPS.items()}
        return {
            "from_request_s": came - begun, "from_decision_s": came - decided,
            **{f"{name}_s": at - decided for name, at in steps.items()},
        }  # fmt: skip

    def _moment(self, whose: str, step: re.Pattern[str], begun: float) -> float:
        """When it was logged first, since `begun`."""
        lines = (
            line
            for log in self._logs.glob(f"{whose}_*.log")
            for line in log.read_text().splitlines()
        )
        found = (datetime.strptime(m[1], _FORMAT) for line in lines if (m := step.search(line)))
        return min(at.timestamp() for at in found if at.timestamp() >= begun)

    def _wait_for_none(self) -> None:
        from ray import serve

        end = time.monotonic() + _LIMIT
        while any(
            serve.status().applications["default"].deployments["Parse"].replica_states.values()
        ):
            if time.monotonic() > end:
                raise SystemExit(f"the replica does not end; see {self._logs}")
            time.sleep(0.5)
