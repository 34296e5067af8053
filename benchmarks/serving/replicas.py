"""Replicas through Ray Serve on a CPU: their start beside the process's own, scaling, one killed.

Needs ray[serve]. The bundle is the trained pair of benchmarks/arith/weights, of the host target.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.device import cpu
from benchmarks.report import RESULTS, Output, say, today, write_results

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "benchmarks" / "arith" / "weights"
PORT = 8765
QUESTIONS = [f"0{i}7 a+085 b*006 c-311 d" for i in range(6)]
PATIENCE = 120.0
"""Seconds after which a request counts as lost, or a state as never reached."""


def capture(path: Path) -> None:
    """A bundle whose start is mostly that of torch and of its graphs."""
    code = "from foundryc.cli import main; main()"
    options = [
        "--workload", "parse", "--model", WEIGHTS / "target", "--draft", WEIGHTS / "draft",
        "--judge-prompt", "?", "--cut-at", "sentence", "--stride", "8", "--max-len", "208",
        "--prefill", "64", "--verify", "192x12", "--slots", "4", "--target", "host", "-o", path,
    ]  # fmt: skip
    command = [sys.executable, "-c", code, "capture", *map(str, options)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def ask(base: str, question: str, tokens: int) -> tuple[str, str]:
    """ "right" and the text, "told" and the status, or "lost" and how."""
    body = json.dumps({"prompt": question, "max_tokens": tokens}).encode()
    request = urllib.request.Request(
        f"{base}/completions", body, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
            return "right", json.load(reply)["choices"][0]["text"]
    except urllib.error.HTTPError as error:
        return "told", str(error.code)
    except (OSError, ValueError) as error:
        return "lost", repr(error)


def own_start(bundle: Path) -> float:
    """Seconds from the start of `foundryrt serve` to its first token."""
    began = time.perf_counter()
    program = "from foundryrt.start import main; main()"
    command = [sys.executable, "-c", program, "serve", str(bundle), "--port", "0", "--grace", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        line = next(line for line in server.stderr if "listening on" in line)
        outcome = ask(line.split()[-1], QUESTIONS[0], 1)
        seconds = time.perf_counter() - began
        server.terminate()
    if outcome[0] != "right":
        raise RuntimeError(f"the server did not answer: {outcome}")
    return seconds


class Cluster:
    """A Ray instance of this machine with the deployment of examples/deploy."""

    def __init__(self, bundle: Path) -> None:
        import ray
        from ray import serve

        environment = {
            "PARSE_BUNDLE": str(bundle), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }  # fmt: skip
        ray.init(
            num_cpus=4, include_dashboard=False, log_to_driver=False,
            runtime_env={"env_vars": environment},
        )  # fmt: skip
        from examples.deploy import ray_serve

        serve.start(http_options={"port": PORT})
        serve.run(ray_serve.app)
        self.base = f"http://127.0.0.1:{PORT}/v1"

    def replicas(self) -> Counter[str]:
        """How many there are by state, such as RUNNING."""
        from ray import serve

        deployment = serve.status().applications["default"].deployments["Parse"]
        return Counter(deployment.replica_states)

    def until(self, wanted: str, count: int) -> float:
        """When there are `count` replicas of a state; RuntimeError where that takes too long."""
        limit = time.perf_counter() + PATIENCE
        while self.replicas()[wanted] != count or (not count and self.replicas()):
            if time.perf_counter() > limit:
                raise RuntimeError(f"no {count} replicas {wanted}: {self.replicas()}")
            time.sleep(0.02)
        return time.perf_counter()

    def start(self) -> float:
        """Seconds from the decision to scale from none until the first token of the replica."""
        self.until("RUNNING", 0)
        found: list[tuple[str, str]] = []
        asking = threading.Thread(target=lambda: found.append(ask(self.base, QUESTIONS[0], 1)))
        asking.start()
        began = self.until("STARTING", 1)
        asking.join()
        if found[0][0] != "right":
            raise RuntimeError(f"no answer: {found[0]}")
        return time.perf_counter() - began

    def surge(self, requests: int, killed: bool) -> dict[str, Any]:
        """Many requests at once, during which a replica is killed; their outcomes by name."""
        expected = {question: ask(self.base, question, 24) for question in QUESTIONS}
        found: list[str] = []

        def one(question: str) -> None:
            outcome = ask(self.base, question, 24)
            wrong = outcome[0] == "right" and outcome != expected[question]
            found.append("wrong" if wrong else outcome[0])

        threads = [
            threading.Thread(target=one, args=(QUESTIONS[i % len(QUESTIONS)],))
            for i in range(requests)
        ]
        for thread in threads:
            thread.start()
        self.until("RUNNING", 2)
        if killed:
            kill_one()
        for thread in threads:
            thread.join()
        return {"requests": requests, "killed": int(killed), **Counter(found)}

    def close(self) -> None:
        import ray
        from ray import serve

        serve.shutdown()
        ray.shutdown()


def kill_one() -> None:
    """End a replica's process as a fault would."""
    import ray

    names = [
        one["name"]
        for one in ray.util.list_named_actors(all_namespaces=True)
        if one["namespace"] == "serve" and "Parse" in one["name"]
    ]
    ray.kill(ray.get_actor(names[0], namespace="serve"), no_restart=True)


def run(
    requests: Annotated[int, typer.Option(help="Of each surge, all at once.")] = 120,
    starts: Annotated[int, typer.Option(help="Of which the median counts.")] = 3,
    output: Output = RESULTS / "serve_ray.json",
) -> None:
    """Start replicas through Ray Serve, scale them under load and back, kill one."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder, "sums.fdy")
        capture(bundle)
        say("the process's own start")
        own = [own_start(bundle) for _ in range(starts)]
        say("Ray")
        cluster = Cluster(bundle)
        try:
            replica = [cluster.start() for _ in range(starts)]
            surges = [cluster.surge(requests, killed) for killed in (False, True)]
            cluster.until("RUNNING", 0)
        finally:
            cluster.close()
    ratio = statistics.median(replica) / statistics.median(own)
    result = {
        "device": cpu(), "date": today(), "own_start_s": [round(one, 2) for one in own],
        "replica_start_s": [round(one, 2) for one in replica], "ray_start_ratio": round(ratio, 2),
        "scaled": "0, 1, 2, 0", "surges": surges,
    }  # fmt: skip
    write_results(output, result)
    say(json.dumps(result))
