"""Log probabilities of tokens as OpenAI's API lists them, in chats and in plain completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from parse_runtime.sampling.sampler import TokenLogprobs
from parse_runtime.text.spelling import Spelling

Json = dict[str, Any]


def chat_logprobs(entries: Sequence[TokenLogprobs], spelling: Spelling) -> Json:
    """`content`: of each token its text, bytes and log probability, and those of the likeliest."""

    def named(token: int, logprob: float) -> Json:
        data = spelling.data(token)
        return {"token": data.decode(errors="replace"), "logprob": logprob, "bytes": list(data)}

    content = [
        {
            **named(entry.token, entry.logprob),
            "top_logprobs": [named(token, logprob) for token, logprob in entry.top],
        }
        for entry in entries
    ]
    return {"content": content, "refusal": None}


def text_logprobs(entries: Sequence[TokenLogprobs], spelling: Spelling) -> Json:
    """Lists with a place for each token. The token itself is among the likeliest, too."""

    def likeliest(entry: TokenLogprobs) -> dict[str, float]:
        listed = [*entry.top, (entry.token, entry.logprob)]
        return {spelling.text(token): logprob for token, logprob in listed}

    return {
        "tokens": [spelling.text(entry.token) for entry in entries],
        "token_logprobs": [entry.logprob for entry in entries],
        "top_logprobs": [likeliest(entry) for entry in entries],
        "text_offset": [entry.offset for entry in entries],
    }
