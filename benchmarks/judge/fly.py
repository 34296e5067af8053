"""Answers by exact and by loose (FLy) speculation with a draft model, counted by pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.judge.gather import Gatherer
from parse_runtime.calibration.answers import Question
from parse_runtime.models.loose import LooseRule


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
