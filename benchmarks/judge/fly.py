"""Answers by exact and by loose (FLy) speculation with a draft model, counted by pass.

Unlike exact speculation, FLy cannot be replayed from gathered drafts: what it keeps, the target
would not have written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor
from typer import Option

from benchmarks.judge.gather import Gatherer, unasked
from benchmarks.report import say
from parse_runtime.calibration.answers import Question
from parse_runtime.models.loose import LooseRule
from parse_runtime.weights.source import open_model

DEPTH = 16
RULE = LooseRule(6, 0.3)
"""As published, with a chain in which there is room for the window."""
_TOGETHER = 8


@dataclass
class Speculated:
    """An answer as it comes."""

    prompt: list[int]
    tokens: list[int] = field(default_factory=list)
    ended: bool = False
    passes: int = 0

    @property
    def root(self) -> int:
        """Place of the last token."""
        return len(self.prompt) + len(self.tokens) - 1


def answers(
    pair: Gatherer, questions: Sequence[Question], rule: LooseRule | None, depth: int
) -> Iterator[tuple[Question, Speculated]]:
    """As many questions as the pair's caches have slots, all at a time; `rule` None is exact."""
    text = pair.text
    found = [Speculated(text.tokenizer.encode(text.chat.prompt(q.prompt))) for q in questions]
    for slot, answer in enumerate(found):
        pair.draft.read(slot, answer.prompt)
        hidden = pair.target.read(slot, answer.prompt)[-1:]
        _take(pair, answer, pair.target.logits(hidden).argmax(-1).tolist())
    while active := [i for i, a in enumerate(found) if not a.ended and _room(pair, a)]:
        chains = _drafted(pair, active, found, depth)
        places = [found[i].root for i in active]
        scores = pair.target.chains(active, chains, places)
        choices = scores.argmax(-1).view(chains.shape)
        if rule:
            choices = rule.choices(chains, choices, scores)
        agrees = (chains[:, 1:] == choices[:, :-1]).to(torch.int64).cumprod(1).sum(1)
        for i, count, tokens in zip(active, agrees.tolist(), choices.tolist(), strict=True):
            found[i].passes += 1
            _take(pair, found[i], tokens[: count + 1])
    yield from zip(questions, found, strict=True)


def _drafted(pair: Gatherer, active: list[int], found: list[Speculated], depth: int) -> Tensor:
    """The last token of each active answer and `depth` drafted behind it, [B, depth + 1]."""
    chain = [torch.tensor([found[i].tokens[-1] for i in active])]
    # One step more than drafts are wanted: the last one's keys and values are needed, too.
    for ahead in range(depth + 1):
        places = [found[i].root + ahead for i in active]
        chain.append(pair.draft.step(active, chain[-1].tolist(), places).argmax(-1))
    return torch.stack(chain[:-1], 1)


def _take(pair: Gatherer, answer: Speculated, tokens: list[int]) -> None:
    for token in tokens:
        if token in pair.stops:
            answer.ended = True
            return
        if _room(pair, answer):
            answer.tokens.append(token)


def _room(pair: Gatherer, answer: Speculated) -> bool:
    return len(answer.tokens) < pair.length


def run(
    model: Annotated[str, Option(help="Target, as of foundryc capture.")],
    draft: Annotated[str, Option(help="Its draft model, of the same tokenizer.")],
    output: Annotated[Path, Option("--output", "-o", metavar="FILE", help="JSON lines.")],
    questions: Annotated[int, Option(help="How many of those that ship.")] = 200,
    length: Annotated[int, Option(help="Longest answer in tokens.")] = 64,
    dtype: Annotated[str, Option(help="float32 or bfloat16.")] = "bfloat16",
) -> None:
    """Answer questions by FLy on a CPU; what is in the file is not asked again."""
    torch.set_num_threads(1)
    left = unasked(output, questions)
    with torch.inference_mode():
        pair = Gatherer(open_model(model), open_model(draft), dtype, length)
        for some in range(0, len(left), _TOGETHER):
            with output.open("a", encoding="utf-8") as file:
                for q, found in answers(pair, left[some : some + _TOGETHER], RULE, DEPTH):
                    line = {
                        "prompt": q.prompt, "answer": q.answer, "tokens": found.tokens,
                        "passes": found.passes,
                    }  # fmt: skip
                    file.write(json.dumps(line) + "\n")
            say(f"{some + _TOGETHER} of {len(left)}")
