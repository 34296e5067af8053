"""`foundryrt run` of a model of transformers: the answer to a prompt, as it comes."""

from __future__ import annotations

import json as jsonlib
import time
from dataclasses import dataclass
from typing import Any

from foundryrt.console import write
from foundryrt.errors import FoundryError, UsageError
from foundryrt.options import option
from foundryrt.protocols import SessionLike
from hf_runtime import signature
from hf_runtime.generate import CapturedModel, Sampling
from parse_runtime.text.chat import Chat
from parse_runtime.text.stopping import StopText
from parse_runtime.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Options:
    """A prompt, and how its answer is chosen."""

    prompt: str = option(..., "the user's question, or the text to be continued")
    raw: bool = option(False, "continue the text as it is, without the model's chat template")
    max_new_tokens: int = option(128, "longest answer in tokens")
    temperature: float = option(0.0, "0 is greedy")
    top_p: float = option(1.0, "share of the nucleus that is sampled")
    seed: int = option(0, "of the sampling")
    stop: str = option("", "text that ends an answer")

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UsageError(f"max-new-tokens {self.max_new_tokens}: at least 1 is needed")
        self.sampling()

    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, self.seed)


def run(session: SessionLike, options: Options, json: bool) -> dict[str, Any]:
    """Answer the prompt; its text, counts, and seconds."""
    tokenizer, chat = _text(session)
    model = CapturedModel(session)
    if options.raw or not chat.template:
        prompt = tokenizer.encode(options.prompt, special=True)
    else:
        prompt = tokenizer.encode(chat.prompt(options.prompt))
    text = StopText(tokenizer.stream(), [options.stop] if options.stop else [])
    shown: list[str] = []

    def show(part: str) -> None:
        shown.append(part)
        if part and not json:
            write(part)

    began = time.perf_counter()
    first, count, finish = 0.0, 0, "length"
    for token in model.answer(prompt, options.sampling()):
        first = first or time.perf_counter() - began
        count += 1
        if token in chat.stops:
            finish = "stop"
            break
        show(text.push(token))
        if text.ended:
            finish = "stop"
            break
        if count == options.max_new_tokens:
            break
    show(text.rest())
    seconds = time.perf_counter() - began
    if not json:
        write(
            f"\n\n{count} tokens in {seconds:.2f} s, the first after {first:.2f} s"
            f" ({len(prompt)} of the prompt); ended by {finish}\n"
        )
    return {
        "text": "".join(shown), "finish": finish, "prompt_tokens": len(prompt), "tokens": count,
        "first_token_seconds": first, "seconds": seconds,
    }  # fmt: skip


def _text(session: SessionLike) -> tuple[Tokenizer, Chat]:
    name = signature.TOKENIZER
    try:
        tokenizer = Tokenizer.from_json(session.file(name).decode())
        name = signature.CHAT
        return tokenizer, Chat.from_dict(jsonlib.loads(session.file(name)))
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise FoundryError(f"the bundle's {name} cannot be read: {error}") from error
