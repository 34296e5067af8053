"""Fields of requests: what they become, and how the others are refused."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator

import msgspec
import pytest

from tests.unit.parse_fakes import mixing

testclient = pytest.importorskip(
    "starlette.testclient", reason="pip install 'foundry-graphs[serve]'"
)
from parse_runtime.serve.body import ChatBody, TextBody  # noqa: E402
from tests.unit.parse_service import Device, service  # noqa: E402

USER = {"role": "user", "content": "A"}
SHOW = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}[{{ c.function.name }} {{ c.function.arguments.x }}]"
    "{% endfor %}{% endfor %}{% for t in tools or [] %}({{ t.function.name }}){% endfor %}"
    "{{ flavour }}"
)


@pytest.fixture
def client() -> Iterator:  # type: ignore[type-arg]
    made = service(Device(mixing(1, 997), slots=2))
    with testclient.TestClient(made.app(), raise_server_exceptions=False) as client:
        yield client
    made.engine.close()


def chat(client, **fields: object):  # type: ignore[no-untyped-def]
    values = {"messages": [USER], "max_tokens": 4, **fields}
    return client.post("/v1/chat/completions", json=values)


def text(client, **fields: object):  # type: ignore[no-untyped-def]
    return client.post("/v1/completions", json={"prompt": "A", "max_tokens": 4, **fields})


def events(response) -> list[dict]:  # type: ignore[no-untyped-def,type-arg]
    lines = response.text.strip().split("\n\n")
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


@pytest.mark.parametrize(
    "name",
    [
        "user", "metadata", "store", "service_tier", "parallel_tool_calls", "prediction",
        "prompt_cache_key", "safety_identifier",
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", [None, True, "some", {"a": "b"}])
def test_fields_that_change_no_answer_are_taken(
    client,  # type: ignore[no-untyped-def]
    name: str,
    value: object,
) -> None:
    assert chat(client, **{name: value}).status_code == 200


def test_null_is_no_value(client) -> None:  # type: ignore[no-untyped-def]
    for body, ask in ((ChatBody, chat), (TextBody, text)):
        names = {field.name for field in msgspec.structs.fields(body)} - {"messages", "prompt"}
        nulls = dict.fromkeys(names)
        assert ask(client, **{**nulls, "max_tokens": 4}).status_code == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tool_choice", "required"), ("reasoning_effort", "low"), ("audio", {}),
        ("functions", [{"name": "f"}]), ("skip_special_tokens", False),
        ("best_of", 2), ("echo", True), ("suffix", "x"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_refused_by_name(
    client,  # type: ignore[no-untyped-def]
    name: str,
    value: object,
) -> None:
    ask = text if name in ("best_of", "echo", "suffix") else chat
    refused = ask(client, **{name: value})
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["param"] == name and name in error["message"]
    assert error["code"] == "unsupported" and error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"seed": 1 << 63}, "seed"),
        ({"parse": {"thresold": 0.7}}, "parse"),
        ({"parse": {"threshold": 7}}, "parse"),
        ({"n": 0}, "n"),
        ({"n": 100}, "n"),
        ({"stop_token_ids": [9999]}, "stop_token_ids"),
        ({"stop_token_ids": ["x"]}, "stop_token_ids"),
        ({"ignore_eos": 1}, "ignore_eos"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"self": 1}}, "chat_template_kwargs"),
        ({"messages": [{"role": "user", "content": None}]}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{**USER, "colour": 1}]}, "messages"),
        ({"stream_options": {"exclude": True}}, "stream_options"),
        ({"logprobs": 2}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"9999": 1}}, "logit_bias"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 1.5}, "min_p"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"repetition_penalty": 1e-50}, "repetition_penalty"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"top_k": 5, "parse": {"max_rounds": 2}}, "parse"),
        ({"logprobs": True, "parse": {"threshold": 0.7, "max_rounds": 1}}, "parse"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [
                {"type": "function", "function": {"name": "f", "arguments": "[1"}}]}]},
            "messages",
        ),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_by_name(
    client,  # type: ignore[no-untyped-def]
    fields: dict[str, object],
    param: str,
) -> None:
    refused = chat(client, **fields)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == param


def test_a_batch_of_one_prompt_is_that_prompt(client) -> None:  # type: ignore[no-untyped-def]
    answers = [text(client, prompt=prompt) for prompt in ([5, 6], [[5, 6]], "A", ["A"])]
    assert [answer.status_code for answer in answers] == [200] * 4
    ids, ids_listed, words, words_listed = (a.json()["choices"][0]["text"] for a in answers)
    assert ids == ids_listed and words == words_listed
    for prompt in ([[5], [6]], ["A", "B"], [5, [6]], [[5, "A"]], [[]]):
        assert text(client, prompt=prompt).status_code == 400


def shown(**fields: object) -> str:
    made = service(Device(mixing(1)), SHOW)
    made.engine.close()
    body = msgspec.json.decode(json.dumps({"messages": [USER], **fields}), type=ChatBody)
    body.refuse()
    return made.served.prompts.target.chat.prompt(body.question(), **body.settings())


def test_tool_calls_of_a_history_reach_the_template() -> None:
    called = {"name": "f", "arguments": '{"x": 5}'}
    call = {"id": "1", "type": "function", "function": called}
    messages = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
        {"role": "tool", "content": [{"type": "text", "text": "B"}], "tool_call_id": "1"},
    ]
    assert shown(messages=messages) == "<user>A<assistant>[f 5]<tool>B"


def test_tools_and_template_settings_reach_the_template() -> None:
    tools = [{"type": "function", "function": {"name": "g", "parameters": {}}}]
    assert shown(tools=tools) == shown(tools=tools, tool_choice="auto") == "<user>A(g)"
    assert shown(tools=tools, tool_choice="none") == shown(tools=[]) == "<user>A"
    assert shown(chat_template_kwargs={"flavour": "mint"}) == "<user>Amint"


def test_several_answers_are_those_of_several_requests(client) -> None:  # type: ignore[no-untyped-def]
    sampled = {"temperature": 1, "max_tokens": 6}
    for ask in (chat, text):
        whole = ask(client, n=3, seed=5, **sampled).json()
        alone = [ask(client, seed=5 + i, **sampled).json() for i in range(3)]
        choices = [{**one["choices"][0], "index": i} for i, one in enumerate(alone)]
        assert whole["choices"] == choices
        tokens = sum(one["usage"]["completion_tokens"] for one in alone)
        assert whole["usage"]["completion_tokens"] == tokens and len(whole["parse"]) == 3
        assert whole["usage"]["prompt_tokens"] == alone[0]["usage"]["prompt_tokens"]
        chunks = events(ask(client, n=3, seed=5, stream=True, **sampled))
        texts, reasons = [""] * 3, [""] * 3
        for chunk in chunks:
            choice = chunk["choices"][0]
            new = choice["delta"].get("content", "") if "delta" in choice else choice["text"]
            texts[choice["index"]] += new
            reasons[choice["index"]] = choice["finish_reason"]
        expected = [c["message"]["content"] if "message" in c else c["text"] for c in choices]
        assert texts == expected and reasons == [c["finish_reason"] for c in choices]


def test_usage_is_null_until_it_is_known(client) -> None:  # type: ignore[no-untyped-def]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    for ask in (chat, text):
        *chunks, last = events(ask(client, **options))
        assert chunks and all(chunk["usage"] is None for chunk in chunks)
        assert last["usage"]["completion_tokens"] == 4 and last["choices"] == []
        assert all("usage" not in chunk for chunk in events(ask(client, stream=True)))


def test_stop_tokens_of_a_request_end_its_answer(client) -> None:  # type: ignore[no-untyped-def]
    whole = text(client, max_tokens=9).json()["choices"][0]["text"]
    token = ord(whole[4]) - ord("!")
    stopped = text(client, max_tokens=9, stop_token_ids=[token], ignore_eos=True).json()
    assert stopped["choices"][0]["text"] == whole[: whole.index(whole[4])]
    assert stopped["choices"][0]["finish_reason"] == "stop"


def test_log_probabilities_of_a_chat(client) -> None:  # type: ignore[no-untyped-def]
    asked = {"logprobs": True, "top_logprobs": 2, "max_tokens": 5}
    choice = chat(client, **asked).json()["choices"][0]
    entries = choice["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == choice["message"]["content"]
    for entry in entries:
        assert bytes(entry["bytes"]).decode() == entry["token"]
        first, second = entry["top_logprobs"]
        # The likeliest is what was said.
        assert first == {name: entry[name] for name in ("token", "bytes", "logprob")}
        assert second["logprob"] < first["logprob"] < 0
    plain = chat(client, max_tokens=5).json()["choices"][0]
    assert plain["logprobs"] is None
    bare = chat(client, max_tokens=5, logprobs=True).json()["choices"][0]["logprobs"]["content"]
    assert bare == [{**entry, "top_logprobs": []} for entry in entries]


def test_log_probabilities_of_a_completion(client) -> None:  # type: ignore[no-untyped-def]
    choice = text(client, logprobs=1, logit_bias={"40": 100}, max_tokens=3).json()["choices"][0]
    found = choice["logprobs"]
    assert found["tokens"] == ["I"] * 3 and choice["text"] == "III"
    assert found["text_offset"] == [0, 1, 2]
    for token, logprob, top in zip(*map(found.get, list(found)[:3]), strict=True):
        # The token itself is listed, though it is none of the likeliest.
        assert len(top) == 2 and top[token] == logprob == min(top.values())
    assert text(client, logprobs=0).json()["choices"][0]["logprobs"]["tokens"]


def test_streams_list_what_whole_answers_list(client) -> None:  # type: ignore[no-untyped-def]
    fields = {"n": 2, "seed": 3, "temperature": 2, "top_k": 90, "stop": ["never"]}
    for ask, logprobs in ((chat, {"logprobs": True, "top_logprobs": 1}), (text, {"logprobs": 2})):
        whole = ask(client, **fields, **logprobs, max_tokens=9).json()["choices"]
        found: list[dict] = [{}, {}]  # type: ignore[type-arg]
        for event in events(ask(client, **fields, **logprobs, max_tokens=9, stream=True)):
            choice = event["choices"][0]
            for name, values in (choice["logprobs"] or {}).items():
                if values is not None:
                    found[choice["index"]].setdefault(name, []).extend(values)
        for choice, streamed in zip(whole, found, strict=True):
            expected = {k: v for k, v in choice["logprobs"].items() if v is not None}
            assert streamed == expected
        assert whole[0]["logprobs"] != whole[1]["logprobs"]


def test_a_schema_is_followed(client) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("llguidance", reason="pip install 'foundry-graphs[grammar]'")
    schema = {
        "type": "object", "additionalProperties": False, "required": ["A", "B"],
        "properties": {"A": {"enum": [1, 22]}, "B": {"type": "boolean"}},
    }  # fmt: skip
    named = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    for fields in ({}, {"temperature": 1.5, "seed": 2}, {"ignore_eos": True}):
        answer = chat(client, response_format=named, max_tokens=61, **fields).json()["choices"][0]
        said = json.loads(answer["message"]["content"])
        assert answer["finish_reason"] == "stop" and said.keys() == {"A", "B"}
        assert said["A"] in (1, 22) and isinstance(said["B"], bool)
    free = {"type": "json_object"}
    begun = chat(client, response_format=free, max_tokens=9).json()["choices"][0]
    assert begun["message"]["content"].startswith("{")
    if begun["finish_reason"] == "stop":
        assert isinstance(json.loads(begun["message"]["content"]), dict)
    assert chat(client, response_format={"type": "text"}).status_code == 200
    for schema in ({"type": "nonsense"}, {"type": "string", "pattern": "(?=x)"}):
        named["json_schema"]["schema"] = schema
        refused = chat(client, response_format=named).json()["error"]
        assert refused["param"] == "response_format" and "cannot be followed" in refused["message"]
        assert "\n" not in refused["message"]


def test_others_do_not_wait_while_a_grammar_is_made(client, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    begun, done = threading.Event(), threading.Event()

    def slow(*_: object) -> None:
        begun.set()
        assert done.wait(20)

    monkeypatch.setattr("parse_runtime.text.grammar.Grammars.json", slow)
    wanted = {"response_format": {"type": "json_object"}}
    asks = threading.Thread(target=chat, args=(client,), kwargs=wanted)
    asks.start()
    try:
        assert begun.wait(20)
        assert client.get("/health").status_code == 200
        assert asks.is_alive()
    finally:
        done.set()
        asks.join(20)


def test_what_a_schema_needs_is_named_where_it_is_missing(client, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setitem(sys.modules, "llguidance", None)
    refused = chat(client, response_format={"type": "json_object"})
    assert refused.status_code == 400
    assert "pip install 'foundry-graphs[grammar]'" in refused.json()["error"]["message"]


def test_the_api_describes_itself(client) -> None:  # type: ignore[no-untyped-def]
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    fields = document["components"]["schemas"]["ChatBody"]["properties"]
    assert fields.keys() == {field.name for field in msgspec.structs.fields(ChatBody)}
    assert fields["tool_choice"] == {"enum": [None, "none", "auto"]}
    assert fields["top_k"]["anyOf"][0] == {"type": "integer", "minimum": -1}
    for path in document["paths"]:
        assert client.options(path.replace("{name}", "fake")).status_code == 405
    text_of = json.dumps(document)
    for reference in ("TextBody", "ChatBody", "Said", "Tool", "Error"):
        assert f"#/components/schemas/{reference}" in text_of
        assert reference in document["components"]["schemas"]
