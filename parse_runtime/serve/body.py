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
from parse_runtime.engine.rules import BundleRules
from parse_runtime.sampling.processing import Processing
from parse_runtime.serve.errors import ApiError
from parse_runtime.serve.formats import ResponseFormat
from parse_runtime.serve.messages import Said, Tool
from parse_runtime.text.chat import Conversation, Message
from parse_runtime.text.grammar import Grammar

HARMLESS: dict[str, tuple[object, ...]] = {
    "echo": (False,),
    "suffix": ("",),
    "skip_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
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
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] | None = None
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
    # What needs logits outside the graphs: see `processing`.
    logit_bias: dict[int, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100)] | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    min_tokens: Annotated[int, Meta(ge=0)] | None = None
    # What would change the answer: see HARMLESS.
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

    def listed(self) -> int | None:
        """How many of the likeliest tokens are to be listed beside each; None for no list."""
        raise NotImplementedError

    @property
    def compiles(self) -> bool:
        """Whether a grammar is made for it, which may take long however short the body is."""
        return False

    def grammar(self, prompts: Prompts) -> Grammar | None:
        """What the answer's text has to follow."""
        return None

    def processing(self, prompts: Prompts) -> Processing:
        """What is to be done to logits; ApiError where it cannot be."""
        bias = self.logit_bias or {}
        try:
            prompts.refuse_unknown(list(bias))
        except UsageError as error:
            raise ApiError(400, f"logit_bias: {error}", "logit_bias") from None
        return Processing(
            top_k=self.top_k or 0,
            min_p=self.min_p or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            logit_bias=bias,
            min_tokens=self.min_tokens or 0,
            logprobs=self.listed(),
            grammar=self.grammar(prompts),
        )

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
            same = any(value == known and type(value) is type(known) for known in harmless)
            if value is not None and not same:
                raise ApiError(400, f"{name}={value!r} is not supported here", name, "unsupported")

    def requests(self, prompts: Prompts, bundle_rules: BundleRules, max_len: int) -> list[Request]:
        """As many as answers are wanted; UsageError or ApiError for what cannot be answered."""
        self.refuse()
        request = self._request(prompts, bundle_rules, max_len)
        sampling = request.sampling
        seeds = [(sampling.seed + index) % (1 << 63) for index in range(self.n or 1)]
        return [
            dataclasses.replace(request, sampling=dataclasses.replace(sampling, seed=seed))
            for seed in seeds
        ]

    def _request(self, prompts: Prompts, bundle_rules: BundleRules, max_len: int) -> Request:
        temperature = self.temperature or 0.0
        # Greedy answers need no seed; others are to differ unless one was given.
        drawn = secrets.randbits(63) if temperature else 0
        sampling = Sampling(
            temperature,
            1.0 if self.top_p is None else self.top_p,
            drawn if self.seed is None else self.seed,
        )
        limit = self.tokens_limit()
        try:
            rules = bundle_rules.changed(self.parse or {})
        except UsageError as error:
            raise ApiError(400, f"parse: {error}", "parse") from None
        processing = self.processing(prompts)
        if processing.needed and self.parse and rules.max_rounds:
            # Of what a draft has, the target's logits are known nowhere but at its cuts.
            message = (
                "parse: fields that change or list logits are answered by the target alone, "
                "without drafts: leave parse out, or set max_rounds to 0"
            )
            raise ApiError(400, message, "parse", "unsupported")
        least = 1 if limit is None else limit
        question, settings = self.question(), self.settings()
        prompts.refuse_longer(question, rules, max_len, settings)
        ending = self._ending(prompts)
        request = prompts.request(question, least, sampling, rules, ending, settings, processing)
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

    prompt: str | list[int | str | list[int]]
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    echo: Any = None
    suffix: Any = None
    best_of: int | None = None

    def refuse(self) -> None:
        super().refuse()
        if self.best_of not in (None, self.n or 1):
            message = f"best_of={self.best_of} is not supported here unless it is n"
            raise ApiError(400, message, "best_of", "unsupported")

    def listed(self) -> int | None:
        return self.logprobs

    def tokens_limit(self) -> int | None:
        return 16 if self.max_tokens is None else self.max_tokens

    def question(self) -> Raw:
        if isinstance(self.prompt, str):
            return Raw(self.prompt)
        tokens = [part for part in self.prompt if isinstance(part, int)]
        if len(tokens) == len(self.prompt):
            return Raw(tokens)
        if len(self.prompt) == 1 and not isinstance(only := self.prompt[0], int):
            return Raw(only)
        raise ApiError(400, "one prompt a request is supported", "prompt", "unsupported")


class ChatBody(Body, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Said], Meta(min_length=1)]
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    tools: list[Tool] | None = None
    tool_choice: Any = None
    chat_template_kwargs: dict[str, Any] | None = None
    # Of no use here: calls are not told from text, and drafts come from a model.
    parallel_tool_calls: Any = None
    prediction: Any = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    # See HARMLESS.
    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    audio: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    web_search_options: Any = None

    def refuse(self) -> None:
        super().refuse()
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", "top_logprobs")

    def listed(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def compiles(self) -> bool:
        return self.response_format is not None

    def grammar(self, prompts: Prompts) -> Grammar | None:
        schema = None if self.response_format is None else self.response_format.schema()
        if schema is None:
            return None
        try:
            return prompts.grammars.json(schema)
        except UsageError as error:
            raise ApiError(400, f"response_format: {error}", "response_format") from None

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
