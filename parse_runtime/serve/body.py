"""Bodies of completion requests; what this server cannot do is refused by name."""

from __future__ import annotations

import dataclasses
import secrets
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from foundryrt.errors import UsageError
from parse_runtime.engine.batch import Sampling
from parse_runtime.engine.prompts import Ending, Prompts, Raw
from parse_runtime.engine.request import Request
from parse_runtime.engine.rules import Rules
from parse_runtime.serve.errors import ApiError
from parse_runtime.serve.messages import Said, Tool
from parse_runtime.text.chat import Conversation, Message

HARMLESS: dict[str, tuple[object, ...]] = {
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "repetition_penalty": (1, 1.0),
    "top_k": (-1, 0),
    "min_p": (0, 0.0),
    "min_tokens": (0,),
    "skip_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "reasoning_effort": (),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Fields of which only these values, and null, are taken."""
_TEMPLATE = ("messages", "tools", "add_generation_prompt", "conversation", "judgement", "self")
"""What chat_template_kwargs may not replace."""


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


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
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    parse: dict[str, Any] | None = None
    # What a server may know, and this one has no use for.
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: Any = None
    # What would change the answer: see HARMLESS.
    logprobs: Any = None
    logit_bias: Any = None
    frequency_penalty: Any = None
    presence_penalty: Any = None
    repetition_penalty: Any = None
    top_k: Any = None
    min_p: Any = None
    min_tokens: Any = None
    skip_special_tokens: Any = None
    include_stop_str_in_output: Any = None

    def tokens_limit(self) -> int | None:
        """The longest answer that was asked for."""
        return self.max_tokens

    def question(self) -> Conversation | Raw:
        """What is to be answered."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Variables of the chat template."""
        return {}

    def stops(self) -> list[str]:
        """Strings that end the answer."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def counted(self) -> bool:
        """A stream is to tell the usage."""
        return bool(self.stream and self.stream_options and self.stream_options.include_usage)

    def refuse(self) -> None:
        """ApiError where a field asks for what this server cannot do."""
        for name, harmless in HARMLESS.items():
            value = getattr(self, name, None)
            # For completions logprobs=0 asks for something, and is no False.
            same = any(value == known and type(value) is type(known) for known in harmless)
            if value is not None and not same:
                raise ApiError(400, f"{name}={value!r} is not supported here", name, "unsupported")

    def requests(self, prompts: Prompts, rules: Rules, max_len: int) -> list[Request]:
        """As many as answers are wanted; UsageError or ApiError for what cannot be answered."""
        self.refuse()
        request = self._request(prompts, rules, max_len)
        sampling = request.sampling
        seeds = [(sampling.seed + index) % (1 << 63) for index in range(self.n or 1)]
        return [
            dataclasses.replace(request, sampling=dataclasses.replace(sampling, seed=seed))
            for seed in seeds
        ]

    def _request(self, prompts: Prompts, rules: Rules, max_len: int) -> Request:
        temperature = self.temperature or 0.0
        # Greedy answers need no seed; others are to differ unless one was given.
        drawn = secrets.randbits(63) if temperature else 0
        sampling = Sampling(
            temperature,
            1.0 if self.top_p is None else self.top_p,
            drawn if self.seed is None else self.seed,
        )
        limit, rules = self.tokens_limit(), rules.changed(self.parse or {})
        least = 1 if limit is None else limit
        question, settings = self.question(), self.settings()
        prompts.refuse_longer(question, rules, max_len, settings)
        request = prompts.request(question, least, sampling, rules, self._ending(prompts), settings)
        request.check(max_len)
        if limit is None:
            room = max_len - len(request.prompt)
            request = dataclasses.replace(request, max_new_tokens=room)
        return request

    def _ending(self, prompts: Prompts) -> Ending:
        try:
            prompts.refuse_unknown(self.stop_token_ids or ())
        except UsageError as error:
            raise ApiError(400, f"stop_token_ids: {error}", "stop_token_ids") from None
        return Ending(self.stop_token_ids or (), bool(self.ignore_eos))


class TextBody(Body, kw_only=True):
    """POST /v1/completions."""

    prompt: str | list[int | str]
    echo: Any = None
    suffix: Any = None
    best_of: int | None = None

    def refuse(self) -> None:
        super().refuse()
        if self.best_of not in (None, self.n or 1):
            message = f"best_of={self.best_of} is not supported here unless it is n"
            raise ApiError(400, message, "best_of", "unsupported")

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


class ChatBody(Body, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Said], Meta(min_length=1)]
    max_completion_tokens: int | None = None
    tools: list[Tool] | None = None
    tool_choice: Any = None
    chat_template_kwargs: dict[str, Any] | None = None
    # Of no use here: calls are not told from text, and drafts come from a model.
    parallel_tool_calls: Any = None
    prediction: Any = None
    # See HARMLESS.
    top_logprobs: Any = None
    response_format: Any = None
    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    audio: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    web_search_options: Any = None

    def tokens_limit(self) -> int | None:
        given = self.max_completion_tokens
        return self.max_tokens if given is None else given

    def question(self) -> list[Message]:
        return [said.message() for said in self.messages]

    def settings(self) -> dict[str, Any]:
        settings = dict(self.chat_template_kwargs or {})
        if taken := [name for name in _TEMPLATE if name in settings]:
            message = f"chat_template_kwargs: {taken[0]!r} is not for it to set"
            raise ApiError(400, message, "chat_template_kwargs")
        if self.tools and self.tool_choice != "none":
            settings["tools"] = [tool.described() for tool in self.tools]
        return settings
