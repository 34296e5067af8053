"""What a service does from a switch until the last graph of the other bundle is ready."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from unittest.mock import Mock

import pytest

from foundryrt.errors import FoundryError
from tests.unit.parse_fakes import mixing

testclient = pytest.importorskip(
    "starlette.testclient", reason="pip install 'foundry-graphs[serve]'"
)
from parse_runtime.serve import Serving, switching  # noqa: E402
from parse_runtime.serve.successor import Successor  # noqa: E402
from tests.unit.parse_service import Device, Session, service  # noqa: E402

BROKEN = FoundryError("target.decode batch=2: CUDA_ERROR_OUT_OF_MEMORY (2)")


class Late(Session):
    """One of its two graphs is ready; `wait` ends once it is let go."""

    def __init__(self, digest: str, error: Exception | None = None) -> None:
        super().__init__(1, error)
        self.graphs = ["one", "two"]
        self.digest, self.settings, self.closed = digest, {"model": "fake"}, False
        self.going_on = threading.Event()

    def wait(self, progress: Callable[[int, int], None] | None = None) -> None:
        while not self.going_on.wait(0.01):
            assert progress
            progress(1, 2)
        super().wait(progress)

    def free_memory(self) -> None:
        """None on the host."""

    def close(self) -> None:
        self.closed = True


class Switched:
    """A service that has a token, its client, and the sessions that take each other's place."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.first = Late("first")
        self.first.going_on.set()
        self.service = service(Device(mixing(1, 997), slots=2), session=self.first)
        self.service.prepare()
        self._monkeypatch = monkeypatch
        switch = switching.Switching(self.service, Serving(), "token")
        self.client = testclient.TestClient(self.service.app([switch.route]))

    def to(self, session: Late) -> tuple[int, dict]:  # type: ignore[type-arg]
        made = service(Device(mixing(2, 997), slots=2))
        made.engine.close()
        opened = Successor(session, made.served.loaded, ["weights"])  # type: ignore[arg-type]
        self._monkeypatch.setattr(switching, "open_successor", lambda *_: opened)
        return self.post()

    def post(self, **asked: bool) -> tuple[int, dict]:  # type: ignore[type-arg]
        answer = self.client.post(
            "/admin/switch", json={"bundle": "y.fdy", **asked},
            headers={"Authorization": "Bearer token"},
        )  # fmt: skip
        return answer.status_code, answer.json()

    def ask(self) -> str:
        answer = self.client.post("/v1/completions", json={"prompt": "(", "max_tokens": 9})
        assert answer.status_code == 200
        return str(answer.json()["choices"][0]["text"])

    def health(self) -> tuple[int, str, str, int]:
        answer = self.client.get("/health")
        found = answer.json()
        return answer.status_code, found["status"], found["bundle"], found["ready"]


@pytest.fixture
def switched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Switched]:
    made = Switched(monkeypatch)
    with made.client:
        yield made
        for engine in list(made.service.engines):
            engine.close(20)


def under_way(switched: Switched, session: Late) -> Future[tuple[int, dict]]:  # type: ignore[type-arg]
    """A switch whose bundle is served, and has graphs to make."""
    pool = ThreadPoolExecutor(1)
    report = pool.submit(switched.to, session)
    pool.shutdown(wait=False)
    end = time.monotonic() + 20
    while switched.service.switches == 0:
        assert time.monotonic() < end
        time.sleep(0.01)
    return report


def test_answers_are_given_before_all_graphs_are_ready(switched: Switched) -> None:
    before, other = switched.ask(), Late("other")
    report = under_way(switched, other)
    assert switched.health() == (200, "ok", "other", 1)
    assert switched.ask() != before and not report.done() and not switched.first.closed
    other.going_on.set()
    status, found = report.result(20)
    assert status == 200 and found["ready_seconds"] > found["open_seconds"]
    assert switched.first.closed and switched.health() == (200, "ok", "other", 2)


def test_a_graph_that_cannot_be_made_later_loses_no_request(
    switched: Switched, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Late("other", BROKEN)
    report = under_way(switched, other)
    expected = switched.ask()
    other.going_on.set()
    status, found = report.result(20)
    assert status == 500 and found["error"]["code"] == "not_complete"
    assert "y.fdy is served, but target.decode batch=2: CUDA" in found["error"]["message"]
    said, end = "", time.monotonic() + 20
    while "switch failed" not in said:  # told after the client
        assert time.monotonic() < end
        said += capsys.readouterr().err
    assert f"switch failed: {found['error']['message']}" in said
    assert switched.health() == (503, "failing", "other", 1)
    assert switched.ask() == expected
    assert switched.first.closed and not other.closed and len(switched.service.engines) == 1
    # Another bundle mends it.
    third = Late("third")
    third.going_on.set()
    assert switched.to(third)[0] == 200 and switched.health() == (200, "ok", "third", 2)


def test_a_server_stops_while_graphs_are_made(switched: Switched) -> None:
    report = under_way(switched, Late("other"))
    switched.service.stop()
    status, found = report.result(20)
    assert status == 503 and "the server stops" in found["error"]["message"]
    assert switched.first.closed


class Unread(io.StringIO):
    """As stderr is where it is a pipe that nobody reads any more."""

    def write(self, _: str) -> int:
        raise BrokenPipeError


def test_a_switch_ends_though_nobody_reads_the_log(
    switched: Switched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", Unread())
    third = Late("third")
    third.going_on.set()
    assert switched.to(third)[0] == 200 and switched.health() == (200, "ok", "third", 2)
    monkeypatch.setattr(switching, "open_successor", Mock(side_effect=BROKEN))
    for _ in range(2):
        status, found = switched.post()
        assert status == 422 and "OUT_OF_MEMORY" in found["error"]["message"]


def test_a_switch_that_gets_no_thread_is_no_switch(
    switched: Switched, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "parse-switch":
            raise RuntimeError("can't start new thread")
        start(thread)

    third = Late("third")
    third.going_on.set()
    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):  # a server answers 500
            switched.to(third)
    assert switched.to(third)[0] == 200


def test_what_cannot_be_served_again_ends_the_server(
    switched: Switched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for a server that has closed one bundle and cannot open the other."""
    ended = Mock()
    monkeypatch.setattr(switching, "stop_serving", ended)
    monkeypatch.setattr(switching, "open_again", Mock())
    monkeypatch.setattr(switching, "served", Mock(side_effect=BROKEN))

    def opened(before: Any, asked: Any, unlike: str, go_on: Any, stop: Any) -> Any:
        stop(Mock(path="x.fdy"))
        return Mock()

    monkeypatch.setattr(switching, "open_successor", opened)
    assert switched.post(stop_first=True)[0] == 422
    ended.assert_called_once_with()
    answer = switched.client.post("/v1/completions", json={"prompt": "(", "max_tokens": 9})
    assert answer.status_code == 503
