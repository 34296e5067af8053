"""A server process over models of a script: how it ends, and clients that misbehave."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

pytest.importorskip("uvicorn", reason="pip install 'foundry-graphs[serve]'")
pytest.importorskip("starlette", reason="pip install 'foundry-graphs[serve]'")


class Server:
    """Its process and port."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "listening on http://127.0.0.1" in line, line + process.stderr.read()
        self.port = int(line.rpartition(":")[2].partition("/")[0])

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def post(self, **values: object) -> tuple[int, str]:
        connection = self.connection()
        body = {"prompt": "(", "max_tokens": 9, **values}
        connection.request("POST", "/v1/completions", json.dumps(body))
        response = connection.getresponse()
        return response.status, response.read().decode()

    def health(self) -> dict[str, int]:
        connection = self.connection()
        connection.request("GET", "/health")
        return dict(json.loads(connection.getresponse().read()))


@contextmanager
def served(pass_seconds: float, *options: str) -> Iterator[Server]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.parse_service", str(pass_seconds), *options],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield Server(process)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("grace", "signals"), [(1, 1), (60, 2)])
def test_every_client_hears_of_the_end_while_a_pass_is_long(grace: int, signals: int) -> None:
    with served(60, f"--grace={grace}") as server:
        got: list[tuple[int, str]] = []
        asked = [{"stream": True}, {"stream": False}, {"stream": True}, {"stream": False}]
        threads = [
            threading.Thread(target=lambda values=values: got.append(server.post(**values)))
            for values in asked
        ]
        for thread in threads:
            thread.start()
        # A body that never comes.
        unfinished = server.connection()
        unfinished.putrequest("POST", "/v1/completions")
        unfinished.putheader("Content-Length", "100")
        unfinished.endheaders(b"{")
        while (health := server.health())["running"] + health["waiting"] != len(asked):
            time.sleep(0.02)
        begun = time.monotonic()
        for _ in range(signals):
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
        for thread in threads:
            thread.join(10)
        heard = time.monotonic() - begun
        assert server.process.wait(10) == 0
        assert heard < 2.5 and time.monotonic() - begun < 4.5
        assert sorted(status for status, _ in got) == [200, 200, 503, 503]
        for status, text in got:
            if status == 503:
                assert json.loads(text)["error"]["code"] == "stopped"
            else:
                events = text.strip().split("\n\n")
                assert "the server stops" in json.loads(events[-2][6:])["error"]["message"]
                assert events[-1] == "data: [DONE]"
        answer = unfinished.getresponse()
        assert answer.status == 503 and json.loads(answer.read())["error"]["code"] == "stopped"
        assert server.process.stderr is not None and server.process.stderr.read() == ""
