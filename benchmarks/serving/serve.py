"""Our server and vLLM's, one after the other: starting, throughput, arrivals.

Both have the same model folder, the same cores and the same client, a process on a core that
neither has. Results are written after each measurement; what is not run keeps what is in the file.
"""

from __future__ import annotations

import json
import os
import resource
import shlex
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from typer import BadParameter, Option

from benchmarks.device import check_gpus
from benchmarks.report import RESULTS, Output, chosen, say, today
from benchmarks.serving.load import Plan
from benchmarks.serving.ratios import MODELS, Results
from benchmarks.serving.servers import (
    COMMANDS,
    ROOT,
    Server,
    ServerFailed,
    Setup,
    capture,
    write_model,
)
from benchmarks.serving.text_files import PIECES

PARTS = ("start", "throughput", "poisson")
PROMPT, TOKENS, MAX_LEN = 256, 128, 512
SHARE = 0.7
"""Arrivals, of vLLM's best rate."""
CAPTURE = (
    "--no-relocate --slots 256 --prefill 256,384,512,1024,2048 --mixed 32,64,96,128,192,256"
    " --dtype bfloat16 --max-rounds 0 --evidence 0 --judge-prompt ok? --yes a --no b"
)
_ROUNDS = 4
"""Requests, of those at a time."""
_LOAD_LIMIT = 120.0
"""Seconds."""


@dataclass(frozen=True)
class Sizes:
    """What is asked: toy sizes are for trying the benchmark on a CPU."""

    target: str = "cuda"
    prompt: int = PROMPT
    tokens: int = TOKENS
    max_len: int = MAX_LEN
    capture: str = CAPTURE


TINY = Sizes(
    "host", 16, 8, 64, "--slots 4 --prefill 16 --max-rounds 0 --evidence 0 --judge-prompt ok?"
    " --yes a --no b",
)  # fmt: skip


def run(
    models: Annotated[str, Option(help=f"Of {', '.join(MODELS)}.")] = "qwen3-0.6b,qwen3-14b",
    tp: Annotated[int, Option(help="GPUs that share the model.")] = 1,
    engines: Annotated[str, Option(help="Of vllm and ours.")] = ",".join(COMMANDS),
    parts: Annotated[str, Option(help="Of start, throughput and poisson.")] = ",".join(PARTS),
    concurrent: Annotated[str, Option(help="Requests at a time.")] = "1,16,64,256",
    starts: Annotated[int, Option(help="Warm starts, of which medians are taken.")] = 2,
    seconds: Annotated[float, Option(help="Of Poisson arrivals.")] = 20,
    options: Annotated[str, Option(help="More options of foundryc capture.")] = "",
    vllm_path: Annotated[str, Option(help="PYTHONPATH of vLLM's process; empty: ours.")] = "",
    folder: Annotated[Path, Option(help="Models and bundles are made, or found, here.")] = ROOT
    / "build" / "serve",
    limit: Annotated[float, Option(help="Seconds for all.")] = 580,
    tiny: Annotated[bool, Option(help="A toy model on the CPU.")] = False,
    output: Output = RESULTS / "serve.json",
) -> None:  # fmt: skip
    """Measure our server beside vLLM's, both warm, never at once."""
    if tp > 1 and output == RESULTS / "serve.json":
        output = RESULTS / "serve_ranks.json"
    if tiny and output.parent == RESULTS:
        raise BadParameter("figures of toy models mean nothing: give --output", param_hint="--tiny")
    if not tiny:
        check_gpus(range(tp))
    levels = [int(level) for level in concurrent.split(",")]
    names = ["tiny"] if tiny else chosen(models, tuple(MODELS), "--models")
    # vLLM first: arrivals go by its best rate.
    wanted = [one for one in COMMANDS if one in chosen(engines, tuple(COMMANDS), "--engines")]
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files[1], files[1]))
    sizes = TINY if tiny else Sizes()
    bench = Bench(
        Results(output, tiny, tp), sizes, chosen(parts, PARTS, "--parts"), levels, starts, seconds
    )
    cores = sorted(os.sched_getaffinity(0))
    servers = frozenset(cores[:-1] if len(cores) > 2 else cores)
    failed = False
    with Alarm(limit) as alarm:
        for name in names:
            place = folder.resolve() / name
            say(f"{name}: the model's folder")
            write_model(name, place, "cpu" if tiny else "cuda", alarm.left)
            setup = Setup(
                place, sizes.max_len, shlex.split(f"{sizes.capture} {options}"), vllm_path,
                output.resolve().parent / "serve-logs", servers, tp,
            )  # fmt: skip
            for engine in wanted:
                try:
                    bench.measure(name, engine, setup, alarm)
                except (ServerFailed, subprocess.SubprocessError) as error:
                    say(f"{name}, {engine}: {error}")
                    failed = True
    if failed:
        sys.exit(1)


class OutOfTime(Exception):
    """What was measured is in the results."""


class Alarm:
    """Raises OutOfTime in the main thread after so many seconds; SIGTERM ends as it should."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds."""
        return max(1.0, self._end - time.monotonic())

    def __enter__(self) -> Alarm:
        self._before = {
            signal.SIGALRM: signal.signal(signal.SIGALRM, self._ring),
            signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)),
        }
        signal.setitimer(signal.ITIMER_REAL, self.left)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ring(self, *_: object) -> None:
        raise OutOfTime("out of time: what was measured is in the results")


@dataclass(frozen=True)
class Bench:
    """What is measured of one server after another."""

    results: Results
    sizes: Sizes
    parts: list[str]
    levels: list[int]
    starts: int
    seconds: float

    def measure(self, model: str, engine: str, setup: Setup, alarm: Alarm) -> None:
        """All parts of one engine; the server that was started last gets the loads."""
        about = self._prepare(engine, setup, alarm)
        first: list[float] = []
        healthy: list[float] = []
        steps: list[dict[str, Any]] = []
        starts = self.starts if "start" in self.parts else 1
        while len(first) < starts:
            with Server(setup, engine) as server:
                first.append(server.first_token(self._question(), alarm.left))
                there = server.graphs() if engine == "ours" else {}
                healthy.append(server.ready(alarm.left))
                say(f"{model}, {engine}: first token after {first[-1]:.2f} s")
                steps.append({**there, "ms": server.timeline_ms()} if there else {})
                if "start" in self.parts:
                    found = {
                        "first_token_s": statistics.median(first),
                        "healthy_s": statistics.median(healthy), "first_tokens_s": first,
                        **({"timelines": steps} if any(steps) else {}),
                    }  # fmt: skip
                    self.results.save("start", model, engine, found | about)
                if len(first) == starts:
                    self._throughput(model, engine, setup, server, alarm)
                    self._poisson(model, engine, setup, server, alarm)

    def _prepare(self, engine: str, setup: Setup, alarm: Alarm) -> dict[str, Any]:
        """What a warm start finds, our bundle or vLLM's caches; and what is known of it."""
        if engine == "ours":
            mark = setup.bundle.with_suffix(".json")
            if not setup.bundle.exists():
                say("capturing")
                took = capture(setup, self.sizes.target, alarm.left)
                said = {"capture_s": took, "capture": shlex.join(setup.capture)}
                mark.write_text(json.dumps(said))
        elif "start" not in self.parts:
            return {}  # the start that fills its caches serves the loads
        else:
            mark = setup.folder.with_name(f"{setup.name}.vllm.json")
            if not mark.exists():
                say("vLLM's first start, which fills its caches")
                with Server(setup, engine) as server:
                    cold = server.first_token(self._question(), alarm.left)
                    version = json.loads(server.get("/version")[1])["version"]
                mark.write_text(json.dumps({"cold_first_token_s": cold, "version": version}))
        found: dict[str, Any] = json.loads(mark.read_text())
        return found

    def _throughput(
        self, model: str, engine: str, setup: Setup, server: Server, alarm: Alarm
    ) -> None:
        rows: dict[str, Any] = dict(self.results.of("throughput", model, engine).get("at", {}))
        for level in self.levels if "throughput" in self.parts else ():
            self._load(setup, server, alarm, requests=level, concurrent=level)
            requests = _ROUNDS * max(2, level)
            row = self._load(setup, server, alarm, requests=requests, concurrent=level)
            rows[str(level)] = row | {"date": today()}
            say(f"{model}, {engine}, {level} at a time: {_shown(rows[str(level)])}")
            found = {"prompt": self.sizes.prompt, "answer": self.sizes.tokens, "at": rows}
            self.results.save("throughput", model, engine, found)

    def _poisson(self, model: str, engine: str, setup: Setup, server: Server, alarm: Alarm) -> None:
        if "poisson" not in self.parts:
            return
        rates = self.results.of("throughput", model, "vllm").get("at", {})
        best = max((row.get("tokens_per_second", 0) for row in rates.values()), default=0)
        if not best:
            raise ServerFailed("no rate of vLLM's is known: measure its throughput before")
        rate = SHARE * best / self.sizes.tokens
        self._load(setup, server, alarm, requests=16, concurrent=16)
        row = self._load(
            setup, server, alarm, requests=max(1, round(rate * self.seconds)), rate=rate
        )
        say(f"{model}, {engine}, {rate:.1f} arrivals a second: {_shown(row)}")
        self.results.save("poisson", model, engine, {"rate": rate, **row})

    def _load(self, setup: Setup, server: Server, alarm: Alarm, **what: Any) -> dict[str, Any]:
        """What a load came to; the client is a process on a core of its own."""
        plan = Plan(
            port=server.port, model="model", prompt=self.sizes.prompt, tokens=self.sizes.tokens,
            # Each load has prompts of its own, the same for both servers.
            seed=10_007 * what["requests"] + what.get("concurrent", 0),
            pieces=str(setup.folder / PIECES), limit=min(_LOAD_LIMIT, alarm.left), **what,
        )  # fmt: skip
        core = max(os.sched_getaffinity(0))
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.serving.load"], cwd=ROOT, text=True, check=True,
            input=json.dumps(asdict(plan)), stdout=subprocess.PIPE, timeout=alarm.left,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )  # fmt: skip
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def _question(self) -> list[int]:
        return [256 + i % 8 for i in range(self.sizes.prompt)]


def _shown(row: dict[str, Any]) -> str:
    """A load in a line."""
    if row["failed"]:
        return f"{row['failed']} of {row['requests']} failed: {row['errors']}"
    first, between = (row[f"{what}_ms"] for what in ("first_token", "between_tokens"))
    return (
        f"{row['tokens_per_second']:,.0f} tokens/s, to the first token {first['p50']:.1f} ms "
        f"(p99 {first['p99']:.1f}), between tokens {between['p50']:.2f} ms (p99 "
        f"{between['p99']:.2f}); right {row['right']} of {row['requests']}"
    )
