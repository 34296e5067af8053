"""`foundryrt serve` in a process of its own, switched to other bundles while clients ask."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from parse_command import COMMAND, listening, serve

from foundryrt.bundle.reader import Bundle

SLOW = {"max_tokens": 40, "parse": {"max_rounds": 0}}
QUESTIONS = [f"question {i}" for i in range(6)]


class Server:
    """The command in a process of its own, with a user's folder of its own."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process, self.folder = process, folder
        self.url = listening(process).removesuffix("/v1")

    def send(self, path: str, body: object = None, **headers: str) -> tuple[int, dict]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def ask(self, question: str, **options: object) -> str:
        status, body = self.send("/v1/completions", {"prompt": question, **SLOW, **options})
        assert status == 200, body
        return str(body["choices"][0]["text"])

    def health(self) -> dict:
        return self.send("/health")[1]

    def switch(
        self, bundle: Path, *options: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, "switch", str(bundle), "--url", self.url, *options]
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(self.folder), **environment}
        return subprocess.run(command, text=True, timeout=300, capture_output=True, env=environment)

    def switched(self, bundle: Path, *options: str) -> dict:
        done = self.switch(bundle, "--json", *options)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))


@contextmanager
def served(bundle: Path, folder: Path, *options: str, **environment: str) -> Iterator[Server]:
    own = {"XDG_RUNTIME_DIR": str(folder)} | environment
    process = serve(bundle, *options, **own)
    try:
        server = Server(process, folder)
        until(lambda: server.health()["status"] == "ok")
        yield server
    finally:
        process.kill()
        process.wait()


def until(condition, seconds: float = 120) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def digest(bundle: Path) -> str:
    with Bundle.open(bundle) as opened:
        return opened.digest.hex()


@contextmanager
def asking(server: Server) -> Iterator[list[tuple[str, str]]]:
    """Questions one after another by several clients; what was answered."""
    got: list[tuple[str, str]] = []
    ended = threading.Event()

    def client(number: int) -> None:
        while not ended.is_set():
            question = QUESTIONS[(number + len(got)) % len(QUESTIONS)]
            got.append((question, server.ask(question)))

    with ThreadPoolExecutor(5) as pool:
        clients = [pool.submit(client, number) for number in range(5)]
        try:
            until(lambda: server.health()["running"] > 1)
            yield got
        finally:
            ended.set()
    for each in clients:
        each.result()
