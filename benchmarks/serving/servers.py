"""Servers of one model in processes of their own: ours from a bundle, and vLLM's."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.serving.stream import request as post

ROOT = Path(__file__).parents[2]
_ENDED = 40
"""Seconds for a server to end."""
_MANY = "4096"


class ServerFailed(Exception):
    """A process that ended, or took too long; the message names its log."""


@dataclass(frozen=True)
class Setup:
    """What both servers of a model get, and what ours is captured with."""

    folder: Path
    """The model's."""
    max_len: int
    capture: Sequence[str]
    """Options of `foundryc capture`."""
    vllm_path: str
    """PYTHONPATH of vLLM's process."""
    logs: Path
    cores: frozenset[int]
    ranks: int = 1
    """GPUs that share the model."""

    @property
    def name(self) -> str:
        """Of what is made for it, and of its logs."""
        return self.folder.name + (f".tp{self.ranks}" if self.ranks > 1 else "")

    @property
    def bundle(self) -> Path:
        return self.folder.with_name(f"{self.name}.fdy")


def ours(setup: Setup, port: int) -> list[str]:
    """The command of our server."""
    return [
        *program("foundryrt.start"), "serve", str(setup.bundle), "--host", "127.0.0.1",
        "--port", str(port), "--name", "model", "--queue", _MANY, "--connections", _MANY,
        *_ranks(setup, "--tp"),
    ]  # fmt: skip


def vllm(setup: Setup, port: int) -> list[str]:
    """The command of vLLM's; its defaults, but for what an equal comparison needs."""
    return [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(setup.folder),
        "--served-model-name", "model", "--host", "127.0.0.1", "--port", str(port),
        "--max-model-len", str(setup.max_len), "--dtype", "bfloat16",
        "--no-enable-prefix-caching", "--disable-log-stats", "--disable-uvicorn-access-log",
        *_ranks(setup, "--tensor-parallel-size"),
    ]  # fmt: skip


COMMANDS = {"vllm": vllm, "ours": ours}


def switch(setup: Setup, port: int, limit: float) -> dict[str, Any]:
    """Have our server at `port` go on with the bundle and ranks of `setup`; what it reports."""
    command = [
        *program("foundryrt.start"), "switch", str(setup.bundle), "--tp", str(setup.ranks),
        "--url", f"http://127.0.0.1:{port}", "--json",
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, env=_environment(setup, "ours"), timeout=limit
    )
    if done.returncode:
        raise ServerFailed(f"the switch failed: {done.stderr[-2000:]}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _ranks(setup: Setup, option: str) -> list[str]:
    return [option, str(setup.ranks)] if setup.ranks > 1 else []


def program(module: str) -> list[str]:
    """The command of a module's `main`, in this Python."""
    return [sys.executable, "-c", f"from {module} import main; main()"]


def _environment(setup: Setup, engine: str) -> dict[str, str]:
    path = os.environ.get("PYTHONPATH", "")
    if engine == "vllm":
        own = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
        path = setup.vllm_path or path
    else:
        own, path = {}, f"{ROOT}{os.pathsep}{path}"
    # The process works in another folder.
    parts = [os.path.abspath(part) for part in path.split(os.pathsep) if part]
    return os.environ | own | {"PYTHONPATH": os.pathsep.join(parts)}


def capture(setup: Setup, target: str, limit: float) -> float:
    """Make our bundle; the seconds that it took."""
    begun = time.monotonic()
    partial = setup.bundle.with_suffix(".part.fdy")
    command = [
        *program("foundryc.cli"), "capture", "--workload", "parse", "--target", target,
        "--output", str(partial), "--model", str(setup.folder),
        "--max-len", str(setup.max_len), *setup.capture, *_ranks(setup, "--tp"),
    ]  # fmt: skip
    log = setup.logs / f"{setup.name}.capture.log"
    with _spawn(setup, "ours", command, log) as process:
        try:
            if process.wait(limit):
                raise ServerFailed(f"capturing failed: {_end_of(log)}")
        except BaseException:
            _end(process)
            raise
    partial.rename(setup.bundle)
    return time.monotonic() - begun


def _spawn(setup: Setup, engine: str, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """A process on the servers' cores, of a process group of its own; its output goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, setup.cores)
    try:
        with log.open("ab") as file:
            return subprocess.Popen(
                command, cwd="/", env=_environment(setup, engine), stdin=subprocess.DEVNULL,
                stdout=file, stderr=subprocess.STDOUT, process_group=0,
            )  # fmt: skip
    finally:
        os.sched_setaffinity(0, before)


class Server:
    """A server from its start on; leaving the `with` block ends it."""

    def __init__(self, setup: Setup, engine: str) -> None:
        self.port = free_port()
        self._log = setup.logs / f"{setup.name}.{engine}.log"
        self._begun = time.monotonic()
        self._process = _spawn(setup, engine, COMMANDS[engine](setup, self.port), self._log)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        _end(self._process)

    def first_token(self, prompt: Sequence[int], limit: float) -> float:
        """Seconds from the start of the process to the first token of an answer."""
        while True:
            if (came := self.ask(prompt, limit)) is not None:
                return came - self._begun
            self._wait(limit)

    def ask(self, prompt: Sequence[int], limit: float) -> float | None:
        """When the first token of an answer came (`time.monotonic`); None where none does yet."""
        body = {"model": "model", "prompt": list(prompt), "max_tokens": 2, "temperature": 0,
                "ignore_eos": True, "stream": True}  # fmt: skip
        return first_text(self.port, post("/v1/completions", body), limit)

    def ready(self, limit: float) -> float:
        """Seconds from the start of the process until /health says that all is well."""
        while True:
            with suppress(OSError, http.client.HTTPException):
                if self.get("/health")[0] == 200:
                    return time.monotonic() - self._begun
            self._wait(limit)

    def graphs(self) -> dict[str, int]:
        """How many graphs our server has, and how many are ready now."""
        health = json.loads(self.get("/health")[1])
        return {"graphs": health["graphs"], "ready": health["ready"]}

    def timeline_ms(self) -> dict[str, float]:
        """From the start of our server to each step of its start."""
        page = self.get("/metrics")[1].decode()
        found = re.findall(r'^parse_start_seconds{step="(.+)"} (\S+)$', page, re.MULTILINE)
        return {step: float(at) * 1e3 for step, at in found}

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _wait(self, limit: float) -> None:
        if self._process.poll() is not None:
            raise ServerFailed(f"the server ended: {_end_of(self._log)}")
        if time.monotonic() - self._begun > limit:
            raise ServerFailed(f"no answer in {limit:.0f} s: {_end_of(self._log)}")
        time.sleep(0.01)


def first_text(port: int, asked: bytes, limit: float) -> float | None:
    """When the first text of a stream came (`time.monotonic`); None where none does yet."""
    try:
        with socket.create_connection(("127.0.0.1", port), limit) as connection:
            connection.sendall(asked)
            came = b""
            while b'"text"' not in came:
                if not (more := connection.recv(1 << 16)):
                    return None
                came += more
            return time.monotonic() if came.startswith(b"HTTP/1.1 200") else None
    except (ConnectionError, TimeoutError):
        return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """The process and all that it has started."""
    process.terminate()
    try:
        process.wait(_ENDED)
    except subprocess.TimeoutExpired:
        print(f"process {process.pid} does not end: it is killed", file=sys.stderr)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _end_of(log: Path) -> str:
    return f"{log} ends:\n{log.read_text(errors='replace')[-3000:]}"


def free_port() -> int:
    """One that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def write_model(name: str, folder: Path, device: str, limit: float) -> None:
    """The model's folder, unless it is there; by a process, whose memory goes with it."""
    if (folder / "config.json").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.serving.model_folder", name, str(folder), device]
    subprocess.run(command, cwd=ROOT, check=True, timeout=limit, stdout=sys.stderr)
