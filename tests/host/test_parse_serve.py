"""`foundryrt serve` of a tiny bundle, as users call it, and with a client library of theirs."""

from __future__ import annotations

import http.client
import json
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from parse_command import LIMIT, SLOTS, foundryrt, listening, serve

openai = pytest.importorskip("openai", reason="pip install openai")
pytest.importorskip("starlette", reason="pip install 'foundry-graphs[serve]'")
pytest.importorskip("uvicorn", reason="pip install 'foundry-graphs[serve]'")


class Server:
    """The command in a process of its own."""

    def __init__(self, bundle: Path, *options: str) -> None:
        self.process = serve(bundle, *options)
        self.url = listening(self.process)
        self.client = openai.OpenAI(base_url=self.url, api_key="none", max_retries=0)
        until(self.healthy)

    def get(self, path: str) -> str:
        address = self.url.removesuffix("/v1") + path
        with urllib.request.urlopen(address, timeout=60) as response:
            return str(response.read().decode())

    def healthy(self) -> bool:
        try:
            return bool(self.get("/health"))
        except urllib.error.HTTPError as error:
            assert json.loads(error.read())["status"] == "starting"
            return False

    def metric(self, name: str) -> float:
        lines = [line for line in self.get("/metrics").splitlines() if line.startswith(name)]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def idle(self) -> bool:
        health = json.loads(self.get("/health"))
        return health["running"] == health["waiting"] == 0

    def chat(self, text: str, **options: object):  # type: ignore[no-untyped-def]
        messages = [{"role": "user", "content": text}]
        values = {"model": "tiny", "max_tokens": 12, **options}
        return self.client.chat.completions.create(messages=messages, **values)


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Server]:
    started = Server(bundle, "--queue", "8")
    started.chat("warm up")
    yield started
    started.process.kill()
    started.process.wait()


def until(condition, seconds: float = 120) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_health_models_and_metrics(server: Server) -> None:
    health = json.loads(server.get("/health"))
    assert health["status"] == "ok" and health["ready"] == health["graphs"] > 0
    assert [model.id for model in server.client.models.list()] == ["tiny"]
    assert server.client.models.retrieve("tiny").id == "tiny"
    before = server.metric('parse_tokens_total{kind="generated"}')
    server.chat("count")
    until(lambda: server.metric('parse_tokens_total{kind="generated"}') == before + 12)


def test_chat_whole_and_streamed_are_the_same(server: Server) -> None:
    whole = server.chat("why?", seed=5, temperature=0.7, top_p=0.9)
    chunks = list(
        server.chat(
            "why?", seed=5, temperature=0.7, top_p=0.9, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage and whole.usage.completion_tokens == 12
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert whole.model_extra["parse"]["rounds"] == 1
    assert chunks[-2].model_extra["parse"]["drafted"] == whole.model_extra["parse"]["drafted"]


def test_completions_of_text_and_of_tokens(server: Server) -> None:
    create = server.client.completions.create
    text = create(model="tiny", prompt="ab", max_tokens=9)
    tokens = create(model="tiny", prompt=[256], max_tokens=9)
    assert text.choices[0].text == tokens.choices[0].text and text.usage == tokens.usage
    streamed = create(model="tiny", prompt="ab", max_tokens=9, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == text.choices[0].text
    assert create(model="tiny", prompt="ab").usage.completion_tokens <= 16


def test_settings_of_a_request(server: Server) -> None:
    def counts(**parse: object) -> dict[str, object]:
        return server.chat("x", extra_body={"parse": parse}).model_extra["parse"]

    assert counts(max_rounds=0)["drafted"] == 0
    everything, nothing = counts(threshold=0), counts(threshold=1)
    assert everything["accepted"] == everything["drafted"] > 0 == nothing["accepted"]
    assert nothing["advances"] > 0


def test_log_probabilities_in_the_clients_own_types(server: Server) -> None:
    options = {"logprobs": True, "top_logprobs": 3, "temperature": 0.8, "seed": 4}
    whole = server.chat("how likely?", **options).choices[0]
    assert whole.logprobs is not None and len(whole.logprobs.content) == 12
    data = b"".join(bytes(entry.bytes) for entry in whole.logprobs.content)
    assert data.decode(errors="replace") == whole.message.content
    for entry in whole.logprobs.content:
        assert entry.logprob < 0 and len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].logprob >= entry.logprob
    chunks = server.chat("how likely?", stream=True, **options)
    choices = [chunk.choices[0] for chunk in chunks]
    streamed = [entry for c in choices if c.logprobs for entry in c.logprobs.content]
    assert streamed == whole.logprobs.content
    create = server.client.completions.create
    plain = create(model="tiny", prompt="ab", max_tokens=6, logprobs=2).choices[0].logprobs
    assert len(plain.tokens) == len(plain.token_logprobs) == len(plain.text_offset) == 6
    assert all(len(top) == 2 for top in plain.top_logprobs)


def test_fields_that_need_logits_leave_the_other_answers_as_they_are(server: Server) -> None:
    fields: list[dict[str, object]] = [
        {},
        {"logprobs": True, "extra_body": {"parse": {"max_rounds": 0}}},
        {"presence_penalty": 1.5, "frequency_penalty": 0.5, "logit_bias": {"70": -100}},
        {"extra_body": {"top_k": 3, "min_p": 0.05, "repetition_penalty": 1.3}},
        {"extra_body": {"parse": {"max_rounds": 0}}},
        {"extra_body": {"min_tokens": 12}},
    ]

    def ask(i: int) -> str:
        choice = server.chat("mixed", max_tokens=20, temperature=2.0, seed=8, **fields[i])
        return str(choice.choices[0].message.content)

    alone = [ask(i) for i in range(6)]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, range(6))) == alone
    # Nothing but listing was asked for: the target alone would have said the same.
    assert alone[1] == alone[4] and len(set(alone)) >= 3
    counts = server.chat("mixed", presence_penalty=1).model_extra["parse"]
    assert counts["drafted"] == 0 and counts["advances"] == 11


def test_an_answer_follows_a_schema_that_the_client_made(server: Server) -> None:
    pytest.importorskip("llguidance", reason="pip install 'foundry-graphs[grammar]'")
    pydantic = pytest.importorskip("pydantic")
    # Numbers have no longest form, so a model of random weights would not come to their end.
    kind = pydantic.create_model("Kind", sure=(bool, ...), colour=(Literal["red", "blue"], ...))
    messages = [{"role": "user", "content": "colour?"}]
    for seed in range(3):
        parsed = server.client.chat.completions.parse(
            model="tiny", messages=messages, response_format=kind, temperature=1.0, seed=seed,
            max_tokens=140,
        )  # fmt: skip
        assert parsed.choices[0].message.parsed.colour in ("red", "blue")
        assert parsed.choices[0].finish_reason == "stop"


def test_a_stop_string_ends_the_text(server: Server) -> None:
    whole = server.chat("stop", max_tokens=60).choices[0].message.content
    stop = whole[3:5]
    for parse in ({}, {"max_rounds": 0}, {"threshold": 1}):
        options = {"max_tokens": 60, "stop": [stop, "never"], "extra_body": {"parse": parse}}
        got = server.chat("stop", **options)
        assert stop not in got.choices[0].message.content
        assert got.choices[0].finish_reason == "stop"
        streamed = server.chat("stop", stream=True, **options)
        pieces = [c.choices[0].delta.content or "" for c in streamed]
        assert "".join(pieces) == got.choices[0].message.content


@pytest.mark.parametrize(
    ("options", "param", "message"),
    [
        ({"n": 0}, "n", ">= 1"),
        ({"temperature": -1.0}, "temperature", ">= 0"),
        ({"top_p": 0.0}, "top_p", "> 0"),
        ({"max_tokens": 0}, "max_tokens", ">= 1"),
        ({"max_tokens": "many"}, "max_tokens", "Expected `int"),
        ({"seed": -4}, "seed", ">= 0"),
        ({"tool_choice": "required"}, "tool_choice", "not supported"),
        ({"logprobs": True, "top_logprobs": 30}, "top_logprobs", "<= 20"),
        ({"tools": [{"type": "function"}]}, "tools", "`function`"),
        ({"extra_body": {"nonsense": 1}}, "nonsense", "unknown field"),
        ({"extra_body": {"parse": {"threshold": 2}}}, "parse", "probability"),
        ({"extra_body": {"parse": {"thresholds": 0}}}, "parse", "there are threshold"),
        ({"extra_body": {"messages": []}}, "messages", "length >= 1"),
    ],
)
def test_bad_parameters_are_named(
    server: Server, options: dict[str, object], param: str | None, message: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        server.chat("x", **options)
    assert caught.value.type == "invalid_request_error"
    assert message in str(caught.value) and caught.value.param == param


def test_over_long_prompts_and_unknown_models(server: Server) -> None:
    for options in ({}, {"max_tokens": None}, {"stream": True}):
        with pytest.raises(openai.BadRequestError, match="larger --max-len") as caught:
            server.chat("x" * 200, **options)
        assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="exceed"):
        server.chat("x", max_completion_tokens=LIMIT, max_tokens=None)
    with pytest.raises(openai.NotFoundError, match="there is 'tiny'"):
        server.chat("x", model="other")
    with pytest.raises(openai.BadRequestError, match="<= 5"):
        server.client.completions.create(model="tiny", prompt="x", logprobs=6)
    assert server.chat("x", n=1, presence_penalty=0.0, frequency_penalty=0, logprobs=False).usage
    with pytest.raises(openai.BadRequestError, match="no token 9999"):
        server.client.completions.create(model="tiny", prompt=[9999])
    with pytest.raises(openai.BadRequestError, match="exceeding") as caught:
        server.chat("x", extra_body={"parse": {"exceeding": 1}})
    assert caught.value.code is None
    for path in ("/nowhere", "/v1/chat/completions"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            server.get(path)
        assert "error" in json.loads(refused.value.read())
    assert refused.value.headers["Allow"] == "POST"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{not json", "json"),
        (b'{"prompt": "\xff"}', "utf-8"),
        (b'{"prompt": "x", "metadata": ' + b"[" * 9999 + b"]" * 9999 + b"}", "recursion"),
    ],
)
def test_a_body_that_cannot_be_read_is_the_clients_error(
    server: Server, body: bytes, message: str
) -> None:
    request = urllib.request.Request(f"{server.url}/completions", body)
    with pytest.raises(urllib.error.HTTPError) as damaged:
        urllib.request.urlopen(request)
    assert damaged.value.code == 400 and message in damaged.value.read().decode().lower()


def test_streams_at_once_are_those_of_streams_alone(server: Server) -> None:
    def ask(i: int) -> str:
        stream = server.chat(
            f"question {i % 4}", max_tokens=30, stream=True, temperature=0.5 * (i % 2), seed=i,
            extra_body={"parse": {"threshold": [0, 0.5, 1][i % 3], "max_rounds": 1 + i % 2}},
        )  # fmt: skip
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    alone = [ask(i) for i in range(6)]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, range(6))) == alone
    assert len(set(alone)) > 3


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot(server: Server, stream: bool) -> None:
    slow = {"max_tokens": 140, "extra_body": {"parse": {"max_rounds": 0}}}
    assert server.chat("leave", **slow).usage.completion_tokens == 140
    until(server.idle)
    before = server.metric('parse_tokens_total{kind="generated"}')
    if stream:
        chunks = server.chat("leave", stream=True, **slow)
        next(chunk for chunk in chunks if chunk.choices[0].delta.content)  # the first has none
        chunks.close()
    else:
        connection = http.client.HTTPConnection(server.url.split("/")[2])
        body = {"prompt": "leave", "max_tokens": 140, "parse": {"max_rounds": 0}}
        connection.request("POST", "/v1/completions", json.dumps(body))
        until(lambda: not server.idle())
        connection.close()
    until(server.idle)

    def made() -> float:
        return server.metric('parse_tokens_total{kind="generated"}') - before

    until(lambda: made() > 0)
    assert made() < 140


def test_overload_is_refused_and_passes(bundle: Path) -> None:
    server = Server(bundle, "--queue", "1", "--grace", "20")
    try:
        server.chat("warm up")
        slow = {"max_tokens": 120, "extra_body": {"parse": {"max_rounds": 0}}}
        refused: list[openai.RateLimitError] = []

        def ask(i: int) -> None:
            try:
                server.chat("many", **slow)
            except openai.RateLimitError as error:
                refused.append(error)

        with ThreadPoolExecutor(SLOTS + 5) as pool:
            list(pool.map(ask, range(SLOTS + 5)))
        assert 0 < len(refused) <= 4
        assert int(refused[0].response.headers["retry-after"]) >= 1
        assert server.chat("again").usage.completion_tokens == 12

        # SIGTERM lets what runs be finished, and the process end well.
        done: list[object] = []
        thread = threading.Thread(target=lambda: done.append(server.chat("last", **slow)))
        thread.start()
        until(lambda: not server.idle())
        server.process.send_signal(signal.SIGTERM)
        thread.join(20)
        assert done[0].usage.completion_tokens == 120  # type: ignore[attr-defined]
        assert server.process.wait(120) == 0
    finally:
        server.process.kill()
        server.process.wait()


def test_it_ends_where_it_is_told_as_soon_as_it_listens(bundle: Path) -> None:
    process = serve(bundle)
    listening(process)
    process.send_signal(signal.SIGTERM)
    try:
        assert process.wait(60) == 0
    finally:
        process.kill()


@pytest.mark.parametrize(("grace", "signals"), [("0", 1), ("60", 2)])
def test_a_stream_that_outlasts_the_grace_ends_with_an_error(
    bundle: Path, grace: str, signals: int
) -> None:
    server = Server(bundle, "--grace", grace)
    try:
        server.chat("warm up")
        # A whole draft for every token.
        slow = {"max_rounds": 140, "resume_tokens": 1, "threshold": 1}
        chunks = server.chat("long", max_tokens=140, stream=True, extra_body={"parse": slow})
        pieces = iter(chunks)
        next(pieces)
        for _ in range(signals):
            server.process.send_signal(signal.SIGINT)
            time.sleep(0.2)
        with pytest.raises(openai.APIError, match="the server stops"):
            list(pieces)
        assert server.process.wait(120) == 0
        assert server.process.stderr is not None and server.process.stderr.read() == ""
    finally:
        server.process.kill()
        server.process.wait()


def test_serve_says_what_is_wrong(bundle: Path, server: Server) -> None:
    port = server.url.rpartition(":")[2].partition("/")[0]
    used = foundryrt("serve", bundle, "--port", port)
    assert used.returncode == 2 and "in use" in used.stderr
    for options, named in (
        (("--port", 70000), "0 to 65535"),
        (("--host", ""), "an address is needed"),
        (("--host", "nowhere.invalid"), "not known"),
    ):
        refused = foundryrt("serve", bundle, *options)
        assert (
            refused.returncode == 2 and named in refused.stderr and "\n" not in refused.stderr[:-1]
        )
    assert "--grace" in foundryrt("options", bundle, "--serve").stdout
