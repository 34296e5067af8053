"""`foundryrt serve` of a model that two ranks share: the answers, and the loss of a rank."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from parse_command import listening, serve, tiny_bundle

from tests.host.rank_processes import alive, followers

pytest.importorskip("starlette", reason="pip install 'foundry-graphs[serve]'")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The same model for one process and for two ranks."""
    return {n: tiny_bundle(tmp_path_factory.mktemp(f"tp{n}"), tp=n) for n in (1, 2)}


class Server:
    def __init__(self, bundle: Path, *options: str) -> None:
        self.process = serve(bundle, *options)
        self.url = listening(self.process)
        self.ranks = followers(self.process.pid)

    def ask(self, **options: object):  # type: ignore[no-untyped-def]
        body = json.dumps({"prompt": "ok", "seed": 1} | options).encode()
        request = urllib.request.Request(f"{self.url}/completions", body)
        request.add_header("Content-Type", "application/json")
        return urllib.request.urlopen(request, timeout=60)

    def end(self) -> tuple[str, int]:
        _, err = self.process.communicate(timeout=60)
        return err, self.process.returncode


@pytest.fixture
def server(bundles) -> Iterator[Server]:
    started = Server(bundles[2], "--tp", "2")
    yield started
    started.process.kill()
    started.process.communicate()


def test_answers_are_those_of_one_process(bundles, server) -> None:
    alone = Server(bundles[1])
    asked = {"max_tokens": 24, "temperature": 0}
    texts = [json.load(each.ask(**asked))["choices"][0]["text"] for each in (alone, server)]
    assert texts[0] == texts[1] and texts[0]
    for each in (alone, server):
        each.process.send_signal(signal.SIGTERM)
        err, code = each.end()
        assert code == 0 and "error" not in err
    assert set(server.ranks) == {1} and not any(map(alive, server.ranks.values()))


def test_clients_are_told_that_a_rank_is_lost(server) -> None:
    streams = [server.ask(max_tokens=140, stream=True, temperature=0) for _ in range(2)]
    for stream in streams:
        assert stream.readline().startswith(b"data: ")
    kill = threading.Timer(0.02, os.kill, (server.ranks[1], signal.SIGKILL))
    kill.start()
    said = [stream.read().decode() for stream in streams]
    lost = f"rank 1 (process {server.ranks[1]}) was killed by SIGKILL"
    for text in said:
        assert lost in text and '"code":"rank_lost"' in text
    with pytest.raises((urllib.error.HTTPError, urllib.error.URLError, ConnectionError)):
        server.ask(max_tokens=4)
    err, code = server.end()
    assert code == 1
    assert err == f"error: {lost}; start all ranks again\n"
