"""Conversations in JSON lines as batches of tokens."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from foundryrt.errors import UsageError
from parse_runtime.text.assets import TextAssets

Example = tuple[list[int], int]
"""Tokens, and where the answer begins."""
Batches = Iterator[tuple[Tensor, Tensor]]
"""Tokens int64 [B, T] of prompts and answers, and bool [B, T], where the answers are."""


def read(path: Path, text: TextAssets, longest: int) -> list[Example]:
    """Of lines {"prompt": ..., "answer": ...}; cut to `longest` tokens.

    UsageError names the line that is no such object, or the file that has none of use.
    """
    tokenizer = text.tokenizer
    examples = []
    try:
        # Not splitlines: JSON may hold other line separators inside strings.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            prompt, answer = str(values["prompt"]), str(values["answer"])
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise UsageError(
                f'{path}:{number}: {{"prompt": ..., "answer": ...}} is expected: {error}'
            ) from error
        before = tokenizer.encode(text.chat.prompt(prompt))
        tokens = [*before, *tokenizer.encode(answer), *text.chat.stops[:1]][:longest]
        if len(tokens) > len(before) + 2:
            examples.append((tokens, len(before)))
    if not examples:
        raise UsageError(f"{path}: no answer fits in {longest} tokens")
    return examples


def frequent(examples: Sequence[Example], count: int) -> list[int]:
    """The `count` most frequent tokens of answers, rising."""
    seen = Counter(token for tokens, start in examples for token in tokens[start:])
    return sorted(token for token, _ in seen.most_common(count))


def batches(examples: Sequence[Example], size: int, seed: int, device: torch.device) -> Batches:
    """Without end: every example once, in random order, then again in another."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(examples), generator=generator)
        for chosen in torch.split(order, size):
            rows = [examples[index] for index in chosen.tolist()]
            width = max(len(tokens) for tokens, _ in rows)
            batch = torch.zeros(len(rows), width, dtype=torch.int64)
            answers = torch.zeros(len(rows), width, dtype=torch.bool)
            for row, (tokens, start) in enumerate(rows):
                batch[row, : len(tokens)] = torch.tensor(tokens)
                answers[row, start : len(tokens)] = True
            yield batch.to(device), answers.to(device)
