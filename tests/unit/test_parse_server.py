"""A server process over models of a script: how it ends, and clients that misbehave."""

from __future__ import annotations

import http.client
import json
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

pytest.importorskip("uvicorn", reason="pip install 'foundry-graphs[serve]'")
pytest.importorskip("starlette", reason="pip install 'foundry-graphs[serve]'")

from foundryrt.errors import UsageError
from parse_runtime.serve.connection import BACKLOG


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

    def get(self, path: str) -> tuple[int, str]:
        connection = self.connection()
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()

    def health(self) -> dict[str, int]:
        return dict(json.loads(self.get("/health")[1]))


@contextmanager
def served(pass_seconds: float, *options: str, files: int = 1024) -> Iterator[Server]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    process = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.parse_service", str(pass_seconds), *options],
        stderr=subprocess.PIPE, text=True, preexec_fn=limit,
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


def test_connections_that_stand_when_the_server_stops_are_answered() -> None:
    head = b"GET /health HTTP/1.1\r\nHost: x\r\n"
    with served(0) as server, ExitStack() as stack:
        address = "127.0.0.1", server.port

        def connected() -> socket.socket:
            return stack.enter_context(socket.create_connection(address, 10))

        new, used, half = (connected() for _ in range(3))
        used.sendall(head + b"\r\n")
        while not used.recv(1 << 16).endswith(b"}"):
            pass
        half.sendall(head)
        server.health()
        server.process.send_signal(signal.SIGTERM)
        with suppress(ConnectionError):
            while True:
                connected()
                time.sleep(0.01)
        # Neither can know that nobody listens any more.
        for client in (new, used):
            client.sendall(head + b"\r\n")
        for client, status in ((new, b"200"), (used, b"200"), (half, b"503")):
            with client.makefile("rb") as answer:
                got = answer.read()
            assert got.startswith(b"HTTP/1.1 " + status) and b"connection: close\r\n" in got
        assert b"the server stops" in got
        assert server.process.wait(10) == 0


def test_connections_that_the_system_has_accepted_are_answered() -> None:
    with served(0) as server, ExitStack() as stack:
        server.health()
        server.process.send_signal(signal.SIGSTOP)
        # One more than the server accepts in one turn of its event loop.
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 10))
            for _ in range(BACKLOG + 1)
        ]
        for client in clients:
            client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGCONT)
        for client in clients:
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


def test_idle_connections_make_room_for_others() -> None:
    with served(0, files=256) as server, ExitStack() as stack:
        address = "127.0.0.1", server.port
        idle = [stack.enter_context(socket.create_connection(address)) for _ in range(256)]
        assert server.health()["failed_in_a_row"] == 0
        for _ in range(3):
            assert server.post()[0] == 200
        # Those that came last are there still.
        idle[-1].sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle[-1].recv(100).startswith(b"HTTP/1.1 200")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        assert server.process.stderr is not None
        line = server.process.stderr.read()
        assert line.count("\n") == 1 and "connections at a time" in line


def test_connections_that_are_all_in_use_are_a_clear_refusal() -> None:
    with served(60, "--connections=2") as server, ExitStack() as stack:
        refused = 200, ""
        deadline = time.monotonic() + 20
        while refused[0] != 503:
            assert time.monotonic() < deadline
            connection = server.connection()
            stack.callback(connection.close)
            connection.request("POST", "/v1/completions", json.dumps({"prompt": "("}))
            # A connection that has sent nothing yet may have to make room.
            time.sleep(0.05)
            with suppress(ConnectionError):
                refused = server.get("/health")
        error = json.loads(refused[1])["error"]
        assert error["code"] == "overloaded" and error["type"] == "server_error"


def test_requests_that_do_not_come_in_are_given_up() -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
    sent = {
        b"": b"",
        head: b"HTTP/1.1 408 ",
        head + b"Content-Length: 100\r\n\r\n{": b"HTTP/1.1 408 ",
        b"nonsense\r\n\r\n": b"HTTP/1.1 400 ",
    }
    with served(0, "--client-timeout=1") as server, ExitStack() as stack:
        begun = time.monotonic()
        clients = {
            text: stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 10))
            for text in sent
        }
        for text, client in clients.items():
            client.sendall(text)
        for text, client in clients.items():
            with client.makefile("rb") as answer:
                got = answer.read()
            assert got.startswith(sent[text])
            if got:
                body = json.loads(got.partition(b"\r\n\r\n")[2])
                assert body["error"]["type"] == "invalid_request_error"
        assert time.monotonic() - begun < 4
        # An answer may take longer than a request.
        assert server.post()[0] == 200


def test_small_parts_of_a_stream_do_not_wait_for_the_client() -> None:
    from parse_runtime.serve import Serving
    from parse_runtime.serve.server import listen

    with (
        listen(Serving(port=0)) as listening,
        socket.create_connection(listening.getsockname(), 10),
        listening.accept()[0] as connection,
    ):
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_client_that_does_not_read_on_is_cut() -> None:
    requests = 3000
    with served(0, "--client-timeout=1") as server:
        with socket.create_connection(("127.0.0.1", server.port), 10) as client:
            client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * requests)
            time.sleep(2.5)
            size, got = len(server.get("/openapi.json")[1]), 0
            with suppress(ConnectionResetError):
                while part := client.recv(1 << 20):
                    got += len(part)
        assert 0 < got < requests * size


def test_an_address_that_is_taken_is_told_once() -> None:
    from parse_runtime.serve import Serving
    from parse_runtime.serve.server import listen

    with listen(Serving(port=0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError) as caught:
            listen(Serving(port=port))
    told = f"127.0.0.1 port {port}: Address already in use; choose others, --host and --port"
    assert str(caught.value) == told
