"""A fixed set of requests of every kind, and what their answers are compared by."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

CHATS, TEXTS = "/v1/chat/completions", "/v1/completions"
_COUNTS = ("rounds", "drafted", "accepted", "tokens", "advances", "advanced")
_METHODS: tuple[dict[str, Any], ...] = (
    {"max_rounds": 0},
    {"threshold": 0.0},
    {"threshold": 0.5, "max_rounds": 2},
    {"threshold": 1.0},
)
"""The target alone, all drafted, judged, all rejected."""
_SAMPLINGS: tuple[dict[str, Any], ...] = ({}, {"temperature": 0.9, "top_p": 0.95, "seed": 7})


@dataclass(frozen=True)
class Question:
    """`body` without `stream`: the answer is the same whole and streamed."""

    path: str
    body: dict[str, Any]

    def asked(self, stream: bool) -> dict[str, Any]:
        """The body of the request; a stream tells its usage, too."""
        more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        return self.body | more


@dataclass
class Choice:
    """One of the answers to a request."""

    text: str = ""
    reason: str = ""
    listed: list[str] = field(default_factory=list)
    """Tokens that its log probabilities are of."""


@dataclass
class Answer:
    """What must be the same however, and beside whatever, a request is answered."""

    choices: dict[int, Choice] = field(default_factory=dict)
    usage: dict[str, int] = field(default_factory=dict)
    counts: dict[int, dict[str, int]] = field(default_factory=dict)
    """PARSE's, of each choice."""


def questions() -> list[Question]:
    """Chats and texts, drafted and plain, greedy and sampled, several answers, long and short."""
    found = []
    ways = itertools.product((CHATS, TEXTS), _METHODS, _SAMPLINGS, (1, 3), (12, 60))
    for number, (path, method, sampling, n, tokens) in enumerate(ways):
        question = f"question {number}: " + "why? " * (number % 5)
        body = {"max_tokens": tokens, "parse": method, "n": n, **sampling}
        found.append(_asked(path, question, body))
        if n == 1:
            # Printed letters are tokens that a random model says now and then.
            found.append(_asked(path, question, body | {"stop": ["e", "Q", "7"]}))
        if method == {"threshold": 1.0} and tokens == 60 and n == 1:
            # A draft for every few tokens takes longer than a server that stops waits.
            often = {"max_rounds": 60, "resume_tokens": 2, "threshold": 1.0}
            found.append(_asked(path, question, body | {"parse": often, "ignore_eos": True}))
    for n in (1, 2):
        # The longest by their bytes: what a slow reader leaves fills buffers.
        body = {"max_tokens": 100, "n": n, "logprobs": True, "top_logprobs": 20}
        found.append(_asked(CHATS, f"how likely, {n} times?", body))
    return found


def _asked(path: str, question: str, body: dict[str, Any]) -> Question:
    messages = {"messages": [{"role": "user", "content": question}]}
    return Question(path, body | (messages if path == CHATS else {"prompt": question}))


def read(events: Sequence[dict[str, Any]]) -> Answer:
    """The answer that the events of a stream give, or a whole body alone.

    LookupError, TypeError or ValueError where they are none.
    """
    answer = Answer()
    for event in events:
        for choice in event["choices"]:
            known = answer.choices.setdefault(choice["index"], Choice())
            content = choice.get("message") or choice.get("delta") or choice
            known.text += content.get("content") or content.get("text") or ""
            known.listed += [one["token"] for one in (choice["logprobs"] or {}).get("content", ())]
            if choice["finish_reason"]:
                known.reason = choice["finish_reason"]
        if event.get("usage"):
            answer.usage = event["usage"]
        if "parse" in event:
            reports = event["parse"] if isinstance(event["parse"], list) else [event["parse"]]
            # In a stream it is of the choice that has come to its end.
            first = event["choices"][0]["index"] if len(reports) == 1 else 0
            for index, report in enumerate(reports, first):
                answer.counts[index] = {name: report[name] for name in _COUNTS}
    return answer
