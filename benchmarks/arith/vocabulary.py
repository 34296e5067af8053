"""Byte-level tokenizer without merges, and a chat template whose judge turn is a pure suffix."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

USER, ASSISTANT, END, YES, NO = "<|user|>", "<|assistant|>", "<|end|>", "Yes", "No"
JUDGEMENT = "?"
"""The judge's question: one token, so that a suffix has four."""
SIZE = 320
"""256 bytes and 5 words, and unused ids up to a multiple of 64."""
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@lru_cache(maxsize=1)
def tokenizer() -> tokenizers.Tokenizer:
    """The five words first, then the bytes in the order of the byte-level alphabet."""
    words = [USER, ASSISTANT, END, YES, NO]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*words, *alphabet])}
    result = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    result.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    result.decoder = decoders.ByteLevel()
    result.add_tokens(
        [AddedToken(word, special=word.startswith("<"), normalized=False) for word in words]
    )
    return result


def ids(text: str) -> list[int]:
    """Token ids of a text; special tokens written out are recognised."""
    return list(tokenizer().encode(text, add_special_tokens=False).ids)


def save(folder: Path) -> None:
    """tokenizer.json, tokenizer_config.json and generation_config.json of a model folder."""
    inner = tokenizer()
    inner.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    generation = {"eos_token_id": inner.token_to_id(END)}
    for name, values in (("tokenizer_config", config), ("generation_config", generation)):
        (folder / f"{name}.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
