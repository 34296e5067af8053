"""The Ray Serve deployment with a real Ray: scaled, a replica killed, by a standby and without."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from importlib import import_module, reload
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from parse_serving import until
from standing_by import busy

ray = pytest.importorskip("ray", reason="pip install 'ray[serve]'")
serve = pytest.importorskip("ray.serve", reason="pip install 'ray[serve]'", exc_type=ImportError)

ROOT = Path(__file__).parents[2]
BODY = {"prompt": "two words", "max_tokens": 40, "ignore_eos": True, "parse": {"max_rounds": 0}}


@pytest.fixture(scope="module")
def url(bundle: Path, standby: Path) -> Iterator[str]:
    """The deployment, without a replica yet, in a Ray of its own."""
    own = {"PARSE_BUNDLE": str(bundle), "PARSE_STANDBY": str(standby), "PYTHONPATH": str(ROOT)}
    kept = dict(os.environ)
    os.environ.update(own)
    try:
        # At this priority workers would wait for other processes of the machine.
        ray.init(
            num_cpus=2, include_dashboard=False, logging_level="error",
            _system_config={"worker_niceness": 0},
        )  # fmt: skip
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        serve.start(http_options={"port": port})
        serve.run(reload(import_module("examples.deploy.ray_serve")).app)
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()
        os.environ.clear()
        os.environ.update(kept)


def ask(url: str) -> str:
    """The text of an answer, or how its failure was told; AssertionError for half an answer."""
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(BODY).encode())
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            body = json.load(answer)
    except urllib.error.HTTPError as error:
        return f"status {error.code}"
    except (OSError, HTTPException) as error:
        return f"broken: {type(error).__name__}"
    assert body["usage"]["completion_tokens"] == BODY["max_tokens"], body
    return "text " + str(body["choices"][0]["text"])


def running() -> int:
    states = serve.status().applications["default"].deployments["Parse"].replica_states
    return sum(count for state, count in states.items() if state == "RUNNING")


def replicas() -> list[int]:
    """Their processes, on this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::ServeReplica:default:Parse"):
                found.append(int(path.parent.name))
        except OSError:
            continue  # it has ended meanwhile
    return found


def test_from_none_to_two_and_back_with_one_killed(url: str, bundle: Path, standby: Path) -> None:
    assert running() == 0
    expected = ask(url)
    assert expected.startswith("text ")
    # The first replica's server is the process that stands by.
    assert running() == 1 and busy(standby, bundle)
    stopped, outcomes = threading.Event(), Counter[str]()

    def client() -> None:
        while not stopped.is_set():
            outcomes[ask(url)] += 1

    with ThreadPoolExecutor(12) as pool:
        clients = [pool.submit(client) for _ in range(12)]
        try:
            # The second serves by itself.
            until(lambda: running() == 2)
            answered = outcomes.copy()
            os.kill(replicas()[0], signal.SIGKILL)
            until(lambda: (outcomes - answered)[expected] > 24 and len(replicas()) == 2)
        finally:
            stopped.set()
    for each in clients:
        each.result()
    assert set(answered) == {expected}
    assert all(text == expected or text[:4] != "text" for text in outcomes)
    until(lambda: running() == 0 and not busy(standby, bundle))
    assert ask(url) == expected and busy(standby, bundle)
