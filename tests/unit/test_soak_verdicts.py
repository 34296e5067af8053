"""How the soak counts the ends of requests."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.serving.exchange import Reply
from benchmarks.serving.questions import CHATS, TEXTS, Answer, questions, read
from benchmarks.serving.verdicts import Counts, verdict

COUNTS = dict.fromkeys(("rounds", "drafted", "accepted", "tokens", "advances", "advanced"), 1)
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
ERROR = {"error": {"message": "the server stops"}}


def piece(index: int, text: str, reason: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": index, "text": text, "logprobs": None, "finish_reason": reason}
    return {"choices": [choice], **more}


def whole() -> dict[str, Any]:
    choices = [piece(i, text, "stop")["choices"][0] for i, text in enumerate(("abc", "d"))]
    return {"choices": choices, "usage": USAGE, "parse": [COUNTS, COUNTS]}


PIECES = [
    piece(1, "d"), piece(0, "a"), piece(1, "", "stop", parse=COUNTS), piece(0, "bc"),
    piece(0, "", "stop", parse=COUNTS), {"choices": [], "usage": USAGE},
]  # fmt: skip
EXPECTED: Answer = read([whole()])


def answered(value: object, status: int = 200, **headers: str) -> Reply:
    kind = {"content-type": "application/json", **headers}
    return Reply(status, kind, json.dumps(value).encode(), whole=True)


def streamed(events: list[Any], done: bool = True) -> Reply:
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    end = b"data: [DONE]\n\n" if done else b""
    return Reply(200, {"content-type": "text/event-stream"}, body + end, whole=True)


def test_an_answer_is_the_same_whole_and_streamed() -> None:
    assert read(PIECES) == EXPECTED
    assert verdict(answered(whole()), EXPECTED, False) == "right"
    assert verdict(streamed(PIECES), EXPECTED, True) == "right"


@pytest.mark.parametrize(
    "events",
    [
        PIECES[1:],
        [*PIECES[:-1], {"choices": [], "usage": USAGE | {"completion_tokens": 5}}],
        [*PIECES, piece(0, "e")],
        [*PIECES, piece(0, "", "length")],
        [piece(0, "", "stop", parse=COUNTS | {"drafted": 2}), *PIECES[:-2], PIECES[-1]],
        [*PIECES, {"object": "nothing"}],
    ],
)
def test_other_texts_and_counts_are_wrong(events: list[Any]) -> None:
    assert verdict(streamed(events), EXPECTED, True) == "wrong"


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (answered(ERROR, 503), "503"),
        (answered(ERROR, 408), "408"),
        (answered(ERROR, 429, **{"retry-after": "1"}), "429"),
        (answered(ERROR, 429), "wrong"),
        (answered(ERROR, 500), "wrong"),
        (answered({}, 503), "wrong"),
        (answered(ERROR), "wrong"),
        (streamed([PIECES[0], ERROR]), "event"),
        (streamed([PIECES[0], ERROR], done=False), "lost"),
        (streamed(PIECES, done=False), "lost"),
        (replace(streamed(PIECES), whole=False), "lost"),
        (replace(answered(whole()), whole=False), "lost"),
        (Reply(200, {"content-type": "application/json"}, b"", whole=True), "lost"),
        (Reply(), "lost"),
        (Reply(left=True), "left"),
        (replace(streamed(PIECES[:2], done=False), whole=False, left=True), "left"),
    ],
)
def test_errors_are_told_and_silence_is_not(reply: Reply, kind: str) -> None:
    stream = reply.headers.get("content-type") == "text/event-stream"
    assert verdict(reply, EXPECTED, stream) == kind


def test_every_end_is_counted_once() -> None:
    counts = Counts()
    for kind in ("right", "left", "429", "429", "lost", "wrong"):
        counts.ended(kind, {"of": kind})
    assert counts.total == 6 and counts.told == {"429": 2}
    assert [fault["kind"] for fault in counts.faults] == ["lost", "wrong"]


def test_requests_are_of_every_kind() -> None:
    asked = questions()
    assert len({json.dumps([one.path, one.body]) for one in asked}) == len(asked)
    assert {one.path for one in asked} == {CHATS, TEXTS}
    bodies = [one.body for one in asked]
    for field in ("stop", "temperature", "logprobs"):
        assert any(field in body for body in bodies) and any(field not in body for body in bodies)
    assert {body["n"] for body in bodies} == {1, 2, 3}
