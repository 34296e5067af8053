"""Streams: what a connection is sent is what the answer is, in order, whichever way it takes."""

from __future__ import annotations

import asyncio
import json
import socket
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("uvicorn", reason="pip install 'foundry-graphs[serve]'")
pytest.importorskip("starlette", reason="pip install 'foundry-graphs[serve]'")

from parse_runtime.engine.engine import Engine
from parse_runtime.engine.request import Statistics
from parse_runtime.engine.scheduler import Scheduler
from parse_runtime.sampling.sampler import TokenLogprobs
from parse_runtime.serve.completion import CompletionFormat
from parse_runtime.serve.streamed import Answers, Part
from tests.unit.parse_fakes import Fake, Heard, mixing, request
from tests.unit.test_parse_batch import Letters
from tests.unit.test_parse_server import Server, served


def texts(events: list[dict[str, Any]], count: int) -> list[str]:
    """The joined texts of a stream's answers."""
    found = [""] * count
    for choice in (choice for event in events for choice in event["choices"]):
        found[choice["index"]] += choice["text"]
    return found


def events_of(body: str) -> list[dict[str, Any]]:
    *events, done, nothing = body.split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def test_a_stream_says_what_the_whole_answer_says() -> None:
    values = {"max_tokens": 20, "temperature": 1, "seed": 5, "n": 2}
    with served(0.002) as server:
        whole = [choice["text"] for choice in json.loads(server.post(**values)[1])["choices"]]
        connection = server.connection()
        for _ in range(2):
            # The second goes through the same connection: no byte was left of the first.
            asked = {"prompt": "(", "stream": True, "stream_options": {"include_usage": True}}
            connection.request("POST", "/v1/completions", json.dumps({**asked, **values}))
            events = events_of(connection.getresponse().read().decode())
            assert texts(events, 2) == whole and all(whole)
            assert events[-1]["usage"]["completion_tokens"] > 2 and len(events) > 6
            ends = [c["finish_reason"] for event in events for c in event["choices"]]
            assert len([end for end in ends if end]) == 2
        assert old(server, {**asked, **values}) == whole


def old(server: Server, values: dict[str, object]) -> list[str]:
    """Texts that a client of HTTP/1.0 is sent, which knows of no chunks."""
    body = json.dumps(values).encode()
    head = b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", server.port), 20) as client:
        client.sendall(head + body)
        with client.makefile("rb") as answer:
            head, _, body = answer.read().partition(b"\r\n\r\n")
    assert b"chunked" not in head
    return texts(events_of(body.decode()), 2)


class Mail:
    """An engine that brings everything at once."""

    def leave(self, take: Any, value: object) -> None:
        take([value])


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=1, max_size=30),
    st.lists(st.integers(0, 3), min_size=1, max_size=8),
)
def test_no_part_overtakes_another(parts: list[tuple[bool, int]], turns: list[int]) -> None:
    """Parts that the connection takes or not, with pauses; a task that sends in some turns."""

    async def run() -> list[int]:
        sent: list[int] = []
        answers = Answers(Mail(), [request(40)], Letters)  # type: ignore[arg-type]
        (outcome,) = answers.outcomes
        took = iter(takes for takes, _ in parts)

        def direct(part: Part) -> bool:
            if takes := next(took):
                sent.append(int(part.text))
            return takes

        answers.direct = direct

        async def iterate() -> None:
            pauses = 0
            async for part in answers:
                pauses += 1
                for _ in range(turns[pauses % len(turns)]):
                    await asyncio.sleep(0)
                sent.extend(int(digits) for digits in part.text.split())
                if part.last:
                    break

        task = asyncio.create_task(iterate())
        for number, (_, pause) in enumerate(parts):
            for _ in range(pause):
                await asyncio.sleep(0)
            answers.take(Part(outcome, f"{number} "))
        answers.take(Part(outcome, last=True))
        await asyncio.wait_for(task, 10)
        return sent

    assert asyncio.run(run()) == list(range(len(parts)))


def test_what_fails_on_its_way_to_a_client_ends_its_answer_alone() -> None:
    async def run() -> None:
        failing, good = (Answers(Mail(), [request()], Letters) for _ in range(2))  # type: ignore[arg-type]
        got: list[str] = []
        good.direct = lambda part: got.append(part.text) is None
        failing.direct = lambda part: bool(1 // 0)
        ends = [asyncio.create_task(anext(aiter(one))) for one in (failing, good)]
        await asyncio.sleep(0)
        for answers in (failing, good):
            (outcome,) = answers.outcomes
            outcome.tokens([1])
            outcome.finished("stop", Statistics())
        with pytest.raises(ZeroDivisionError):
            await ends[0]
        assert (await ends[1]).last and got == ["b"]

    asyncio.run(asyncio.wait_for(run(), 10))


@given(st.lists(st.text(), min_size=1, max_size=4), st.booleans(), st.booleans(), st.integers(0, 2))
def test_a_prepared_chunk_is_the_chunk(
    said: list[str], chat: bool, counted: bool, index: int
) -> None:
    completion = CompletionFormat(chat, 'a "model"', counted)
    outcome: Any = SimpleNamespace(index=index)
    for text in said:
        part = Part(outcome, text)
        assert completion.encoded(part) == msgspec.json.encode(completion.chunk(part))


@pytest.mark.parametrize("running", [1, 3])
def test_what_a_pass_says_of_many_is_handed_over_together(running: int) -> None:
    scheduler = Scheduler(Fake(mixing(1, 997), slots=3), Fake(mixing(2), slots=3))
    engine = Engine(scheduler)
    together: list[list[Any]] = []

    class Leaving(Heard):
        def tokens(self, tokens: Any, logprobs: Any = ()) -> int | None:
            engine.leave(together.append, (self, tokens))
            return super().tokens(tokens, logprobs)

    heard = [Leaving() for _ in range(running)]
    for one in heard:
        engine.submit(request(12, max_rounds=0), one)
    engine.close(20)
    for one in heard:
        assert [t for pass_ in together for who, ts in pass_ if who is one for t in ts] == one.said
    assert max(len(pass_) for pass_ in together) >= running
    # A pass has each answer once: what a prefill says does not wait for the step after it.
    for pass_ in together:
        assert len({id(who) for who, _ in pass_}) == len(pass_)


def test_logprobs_are_in_the_chunks_they_belong_to() -> None:
    spelling: Any = SimpleNamespace(text=str)
    completion = CompletionFormat(False, "model", spelling=spelling)
    outcome: Any = SimpleNamespace(index=0)
    part = Part(outcome, "a", [TokenLogprobs(7, -0.5)])
    chunk = json.loads(completion.encoded(part))
    assert chunk["choices"][0]["logprobs"]["token_logprobs"] == [-0.5]
