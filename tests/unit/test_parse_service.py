"""The server over models of a script; what it says of a device that fails, and when it stops."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from foundryrt import timeline
from foundryrt.errors import FoundryError, UsageError
from parse_runtime.engine.engine import FAILING
from parse_runtime.engine.prompts import Prompts
from parse_runtime.engine.request import Request
from parse_runtime.signature.sizes import PrefillSize
from parse_runtime.text.tokenizer import Tokenizer
from tests.unit.parse_fakes import mixing

testclient = pytest.importorskip(
    "starlette.testclient", reason="pip install 'foundry-graphs[serve]'"
)
from parse_runtime.serve.metrics import Metrics  # noqa: E402
from tests.unit.parse_service import Device, Session, service  # noqa: E402

GONE = RuntimeError, "the device is gone"


class Serving:
    """A service in this process, and its client."""

    def __init__(self) -> None:
        self.device = Device(mixing(1, 997), slots=2)
        made = self.service = service(self.device)
        self.engine = made.engine
        self.client = testclient.TestClient(made.app(), raise_server_exceptions=False)

    def ask(self, **options: object):  # type: ignore[no-untyped-def]
        values = {"prompt": "(", "max_tokens": 9, **options}
        return self.client.post("/v1/completions", json=values)

    def health(self) -> tuple[int, str]:
        response = self.client.get("/health")
        return response.status_code, response.json()["status"]

    def metric(self, line: str) -> float:
        found = [
            row for row in self.client.get("/metrics").text.splitlines() if row.startswith(line)
        ]
        return sum(float(row.rpartition(" ")[2]) for row in found)


@pytest.fixture
def serving() -> Iterator[Serving]:
    made = Serving()
    with made.client:
        yield made
        made.device.gate.set()
        made.engine.close(20)
        assert not made.engine.working


def test_health_follows_a_device_that_fails_and_recovers(serving: Serving) -> None:
    assert serving.ask().status_code == 200 and serving.health() == (200, "ok")
    serving.device.fault = GONE
    for _ in range(FAILING):
        assert serving.health() == (200, "ok")
        refused = serving.ask()
        assert refused.status_code == 500 and "the device is gone" in refused.text
    assert serving.health() == (503, "failing")
    assert serving.metric('parse_failures_total{kind="RuntimeError"}') == FAILING
    assert serving.metric("parse_failed_in_a_row ") == FAILING
    serving.device.fault = None
    assert serving.ask().status_code == 200 and serving.health() == (200, "ok")
    assert serving.metric("parse_failed_in_a_row ") == 0


def test_metrics_show_the_blocks_of_the_caches(serving: Serving) -> None:
    blocks = {
        f'{{kind="{kind}",model="{model}"}}': count
        for model in ("target", "draft") for kind, count in (("total", 8), ("used", 0))
    }  # fmt: skip
    serving.device.prefills = (PrefillSize(16, 1),)
    for _ in range(2):
        assert serving.ask(prompt="x" * 20, max_tokens=4).status_code == 200
        for labels, count in blocks.items():
            assert serving.metric(f"parse_kv_blocks{labels}") == count
    assert serving.metric('parse_tokens_total{kind="shared"}') == 16
    assert serving.metric("parse_preemptions_total ") == 0
    serving.device.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(serving.ask, prompt="x" * 20, max_tokens=9)
        # Those of its prompt, and of its steps, as there are enough for all.
        while serving.metric('parse_kv_blocks{kind="used",model="target"}') != 4:
            time.sleep(0.01)
        serving.device.gate.set()
        assert answer.result().status_code == 200


def test_the_first_token_is_marked_when_it_comes(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline, "_steps", {})
    step = 'parse_start_seconds{step="first token"}'
    serving.device.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(serving.ask)
        until = time.monotonic() + 10
        while not (came := serving.metric(step)) and time.monotonic() < until:
            time.sleep(0.01)
        assert came and not answer.done()
        serving.device.gate.set()
        assert answer.result().status_code == 200
    assert list(timeline.seconds()).count("first token") == 1


def test_what_a_request_is_to_blame_for_is_no_failure_of_the_device(serving: Serving) -> None:
    serving.device.fault = UsageError, "the judge's question is too long"
    for _ in range(FAILING):
        assert serving.ask().status_code == 400
    assert serving.health() == (200, "ok") and serving.engine.failed == 0
    assert serving.metric('parse_failures_total{kind="UsageError"}') == FAILING


def test_a_stream_that_fails_ends_with_an_error_event(serving: Serving) -> None:
    serving.device.fault = GONE
    events = serving.ask(stream=True).text.strip().split("\n\n")
    assert '"message":"the device is gone"' in events[-2] and events[-1] == "data: [DONE]"


def test_health_is_ok_once_every_graph_is_prepared() -> None:
    made = service(Device(mixing(1, 997)), session=Session(0))
    client = testclient.TestClient(made.app())

    def health() -> tuple[int, str]:
        response = client.get("/health")
        return response.status_code, response.json()["status"]

    assert health() == (503, "starting")
    made.prepare()
    assert health() == (200, "ok")
    made.engine.close()


def test_health_fails_where_a_graph_cannot_be_prepared(caplog: pytest.LogCaptureFixture) -> None:
    made = service(Device(mixing(1, 997)), session=Session(0, FoundryError("damaged bundle")))
    made.prepare()
    health = testclient.TestClient(made.app()).get("/health")
    assert health.status_code == 503 and health.json()["status"] == "failing"
    [told] = caplog.records
    assert told.getMessage() == "a graph cannot be prepared: damaged bundle" and not told.exc_info
    made.engine.close()


@pytest.mark.parametrize(
    "values",
    [{"prompt": "(" * 1_000_000}, {"parse": {"judge_prompt": "(" * 1_000_000}}],
)
def test_a_text_that_no_tokens_could_hold_is_not_encoded(
    serving: Serving, values: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def encoded(tokenizer: Tokenizer, text: str) -> list[int]:
        raise AssertionError("encoded")

    monkeypatch.setattr(Tokenizer, "encode", encoded)
    refused = serving.ask(**values)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert "1000000 characters" in refused.text


def test_tokens_as_a_prompt_are_no_characters(serving: Serving) -> None:
    assert serving.ask(prompt=[7] * 20).status_code == 200


def test_a_request_of_a_bundle_that_was_replaced_meanwhile_is_made_again(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its engine takes no more, and another bundle may need the request in another form."""
    before = serving.service.served
    after = service(Device(mixing(1, 997), slots=2)).served
    made: list[Prompts] = []

    def request(prompts: Prompts, *given: object) -> Request:
        made.append(prompts)
        if prompts is before.prompts:
            serving.service.serve(after)
            before.engine.close(20)
        return real(prompts, *given)

    real = Prompts.request
    monkeypatch.setattr(Prompts, "request", request)
    assert serving.ask().status_code == 200
    assert made == [before.prompts, after.prompts]
    health = serving.client.get("/health").json()
    assert health["status"] == "ok" and health["switches"] == 1
    after.engine.close(20)


@pytest.mark.parametrize("stream", [True, False])
def test_aborted_answers_end_with_an_error(serving: Serving, stream: bool) -> None:
    serving.device.gate.clear()
    got: list[str] = []
    threads = [
        threading.Thread(target=lambda: got.append(serving.ask(stream=stream).text))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    while sum(serving.engine.load) < 3:
        time.sleep(0.01)
    serving.engine.abort()
    serving.device.gate.set()
    for thread in threads:
        thread.join(20)
    assert len(got) == 3 and all("the server stops" in text for text in got)
    assert serving.health() == (503, "stopped") and serving.engine.load == (0, 0)
    refused = serving.ask()
    assert refused.status_code == 503 and refused.json()["error"]["code"] == "stopped"
    assert serving.metric('parse_failures_total{kind="Stopped"}') == 3


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/models/other", 404),
        ("GET", "/v1/models/", 404),
        ("POST", "/v1/completions/", 404),
        ("POST", "/v1/embeddings", 404),
        ("GET", "/v1/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/v1/completions", 413),
        ("GET", "/metrics", 500),
    ],
)
def test_errors_of_http_have_the_shape_of_the_api(
    serving: Serving, method: str, path: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(metrics: Metrics) -> bytes:
        raise RuntimeError("secret")

    monkeypatch.setattr(Metrics, "page", fails)
    content = b"x" * (9 << 20) if status == 413 else b""
    answer = serving.client.request(method, path, content=content, follow_redirects=False)
    assert answer.status_code == status and answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert error["type"] == ("server_error" if status == 500 else "invalid_request_error")
    assert error["message"] and set(error) == {"message", "type", "param", "code"}
    assert ("Allow" in answer.headers) == (status == 405) and "secret" not in answer.text


def test_requests_wait_while_nothing_is_served_and_none_is_refused(serving: Serving) -> None:
    """More than may wait and run: it is not they who ask too much."""
    before, after = serving.service.served, service(Device(mixing(1, 997), slots=2)).served
    after.engine._queue = 0
    serving.service.pause()
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(serving.ask) for _ in range(6)]
        while len(serving.service._gate._opening._done_callbacks) < 6:  # type: ignore[union-attr]
            time.sleep(0.01)
        assert serving.health() == (503, "switching")
        assert not any(each.done() for each in asked)
        before.engine.close(20)
        serving.service.serve(after, again=True)
        assert {each.result().status_code for each in asked} == {200}
    assert serving.client.get("/health").json()["switches"] == 0
    after.engine.close(20)


def test_requests_that_wait_are_told_that_nothing_will_be_served(serving: Serving) -> None:
    serving.service.pause()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(serving.ask)
        serving.service.fail(FoundryError("x.fdy cannot be opened again"))
        for refused in (asked.result(), serving.ask()):
            assert refused.status_code == 503
            assert "the server stops: x.fdy cannot be opened again" in refused.text
    with pytest.raises(FoundryError, match=r"x\.fdy"):
        serving.service.check()
