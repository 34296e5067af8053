"""Bodies of completion requests; what this server cannot do is refused by name."""

from __future__ import annotations

import dataclasses
import secrets
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from parse_runtime.engine.batch import Sampling
from parse_runtime.engine.prompts import Prompts, Raw
from parse_runtime.engine.request import Request
from parse_runtime.engine.rules import Rules
from parse_runtime.serve.errors import ApiError
from parse_runtime.text.chat import Conversation, Message

_HARMLESS: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
}
"""Fields of which only these values, and null, mean nothing."""


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool = False


class Body(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What both kinds of completion have in common."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    seed: Annotated[int, Meta(ge=0)] | None = None
    stop: str | Annotated[list[str], Meta(max_length=4)] | None = None
    parse: dict[str, Any] = {}
    user: Any = None
    metadata: Any = None
    store: Any = None
    n: Any = None
    logprobs: Any = None
    logit_bias: Any = None
    frequency_penalty: Any = None
    presence_penalty: Any = None

    def tokens_limit(self) -> int | None:
        """The longest answer that was asked for."""
        return self.max_tokens

    def question(self) -> Conversation | Raw:
        """What is to be answered."""
        raise NotImplementedError

    def stops(self) -> list[str]:
        """Strings that end the answer."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def refuse(self) -> None:
        """ApiError where a field asks for what this server cannot do."""
        for name, harmless in _HARMLESS.items():
            value = getattr(self, name, None)
            # For completions logprobs=0 asks for something, and is no False.
            same = any(value == known and type(value) is type(known) for known in harmless)
            if value is not None and not same:
                raise ApiError(400, f"{name}={value!r} is not supported here", name, "unsupported")

    def request(self, prompts: Prompts, rules: Rules, max_len: int) -> Request:
        """UsageError or ApiError for what cannot be answered."""
        self.refuse()
        temperature = self.temperature or 0.0
        # Greedy answers need no seed; others are to differ unless one was given.
        drawn = secrets.randbits(63) if temperature else 0
        sampling = Sampling(
            temperature,
            1.0 if self.top_p is None else self.top_p,
            drawn if self.seed is None else self.seed,
        )
        limit, rules = self.tokens_limit(), rules.changed(self.parse)
        least = 1 if limit is None else limit
        question = self.question()
        prompts.refuse_longer(question, rules, max_len)
        request = prompts.request(question, least, sampling, rules)
        request.check(max_len)
        if limit is None:
            room = max_len - len(request.prompt)
            request = dataclasses.replace(request, max_new_tokens=room)
        return request


class TextBody(Body, kw_only=True):
    """POST /v1/completions."""

    prompt: str | list[int | str]
    echo: Any = None
    suffix: Any = None
    best_of: Any = None

    def tokens_limit(self) -> int | None:
        return 16 if self.max_tokens is None else self.max_tokens

    def question(self) -> Raw:
        if isinstance(self.prompt, str):
            return Raw(self.prompt)
        tokens = [part for part in self.prompt if isinstance(part, int)]
        if len(tokens) == len(self.prompt):
            return Raw(tokens)
        if len(self.prompt) == 1:
            return Raw(str(self.prompt[0]))
        raise ApiError(400, "one prompt a request is supported", "prompt", "unsupported")


class Part(msgspec.Struct, tag_field="type", tag="text"):
    text: str


class Said(msgspec.Struct):
    """One message."""

    role: str
    content: str | list[Part]
    name: Any = None

    def message(self) -> Message:
        text = self.content
        if not isinstance(text, str):
            text = "".join(part.text for part in text)
        return {"role": self.role, "content": text}


class ChatBody(Body, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Said], Meta(min_length=1)]
    max_completion_tokens: int | None = None
    top_logprobs: Any = None
    response_format: Any = None
    tools: Any = None
    tool_choice: Any = None

    def tokens_limit(self) -> int | None:
        given = self.max_completion_tokens
        return self.max_tokens if given is None else given

    def question(self) -> list[Message]:
        return [said.message() for said in self.messages]
