"""`foundryrt serve --standby`, and a Ray replica's way to it, without Ray."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from parse_command import serve
from parse_serving import Server as Command
from parse_serving import until
from standing_by import busy

pytest.importorskip("aiohttp", reason="pip install 'foundry-graphs[cache]'")
pytest.importorskip("starlette", reason="pip install 'foundry-graphs[serve]'")
pytest.importorskip("uvicorn", reason="pip install 'foundry-graphs[serve]'")

from examples.deploy.ray_relay import Relay
from examples.deploy.ray_standby import Server

GONE = "/health"
"""What is asked where no server is there any more."""
BODY = {"prompt": "two words", "max_tokens": 8, "ignore_eos": True}


@pytest.fixture(autouse=True)
def free(standby: Path, bundle: Path) -> None:
    """What one test hands over has ended before the next."""
    until(lambda: not busy(standby, bundle))


def test_it_serves_one_command_after_another(standby: Path, bundle: Path, tmp_path: Path) -> None:
    answers = []
    for _ in range(2):
        process = serve(bundle, "--standby", FOUNDRY_STANDBY=str(standby))
        server = Command(process, tmp_path)
        answers.append(server.ask("two words"))
        assert busy(standby, bundle)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert answers[0] == answers[1] != ""


def asked(relay: Relay, path: str, body: object = None) -> tuple[int, bytes]:
    """Status and body of a request to the relay as an ASGI server would make it."""
    came: list[dict] = []
    sent = [{"type": "http.request", "body": json.dumps(body).encode() if body else b""}]

    async def receive() -> dict:
        while not sent:
            await asyncio.sleep(60)  # the client stays
        return sent.pop()

    async def send(message: dict) -> None:
        came.append(message)

    async def talk() -> None:
        scope = {
            "type": "http", "method": "POST" if body else "GET", "path": path, "query_string": b"",
            "headers": [(b"host", b"elsewhere"), (b"content-type", b"application/json")],
            "server": ("elsewhere", 80), "scheme": "http", "asgi": {"spec_version": "2.4"},
        }  # fmt: skip
        app = relay.app()
        async with app.router.lifespan_context(app):
            if path != GONE:
                await relay.check()
            await app(scope, receive, send)

    asyncio.run(talk())
    assert came[0]["type"] == "http.response.start" and not came[-1].get("more_body")
    return came[0]["status"], b"".join(message.get("body", b"") for message in came[1:])


def begin(standby: Path, bundle: Path) -> Server:
    return Server(str(standby), [str(bundle)], 5)


def test_a_relay_passes_requests_and_answers_on(standby: Path, bundle: Path) -> None:
    status, body = asked(Relay(begin(standby, bundle)), "/v1/completions", BODY)
    whole = json.loads(body)
    assert status == 200 and whole["usage"]["completion_tokens"] == 8
    # The application has ended its server: another one can begin.
    until(lambda: not busy(standby, bundle))
    streamed = BODY | {"stream": True}
    status, body = asked(Relay(begin(standby, bundle)), "/v1/completions", streamed)
    events = [line[6:] for line in body.decode().splitlines() if line.startswith("data: ")]
    assert status == 200 and events[-1] == "[DONE]"
    text = "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1])
    assert text == whole["choices"][0]["text"]
    until(lambda: not busy(standby, bundle))
    assert asked(Relay(begin(standby, bundle)), "/v1/nothing")[0] == 404


def test_a_server_that_is_gone_is_said(standby: Path, bundle: Path) -> None:
    server = begin(standby, bundle)
    relay = Relay(server)
    server.end()
    assert server.ended
    with pytest.raises(RuntimeError, match="the server has ended"):
        asyncio.run(relay.check())
    status, body = asked(relay, GONE)
    assert status == 502 and "server is gone" in json.loads(body)["error"]["message"]


def test_one_that_is_busy_refuses_and_none_is_an_error(standby: Path, bundle: Path) -> None:
    first = begin(standby, bundle)
    with pytest.raises(RuntimeError, match="is busy with another command"):
        _ = begin(standby, bundle).address
    first.end()
    until(lambda: not busy(standby, bundle))
    with pytest.raises(RuntimeError, match="no such file"):
        _ = begin(standby, bundle.with_name("none.fdy")).address
    with pytest.raises(OSError):
        begin(standby.with_name("none"), bundle)


def test_a_replica_that_is_killed_takes_its_server_along(standby: Path, bundle: Path) -> None:
    child = os.fork()
    if not child:
        try:
            _ = begin(standby, bundle)
            signal.pause()
        finally:
            os._exit(1)  # the tests go on in the parent alone
    until(lambda: busy(standby, bundle))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    until(lambda: not busy(standby, bundle))
