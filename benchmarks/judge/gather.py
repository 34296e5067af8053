"""Drafts of a pair with all that is known of them, a line of JSON each.

For every question: the target's own answer, the draft, what the target says of each drafted token
and the judge of each cut, and how the target goes on behind each cut. All that PARSE could do with
the draft under any verdicts follows from that, and so does exact speculation by the same draft.
A run that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor
from typer import Option

from benchmarks.judge.passes import Network
from benchmarks.report import say
from foundryrt.errors import UsageError
from parse_runtime.calibration import questions as shipped
from parse_runtime.calibration.answers import Question
from parse_runtime.engine.judge import PROMPT, stride_cuts
from parse_runtime.signature.sizes import blocks_of
from parse_runtime.weights.source import Model, open_model

_TOGETHER = 10
"""Questions whose drafts and branches are decoded together."""
STRIDE = 8
"""Tokens between cuts."""
ROOM = 160
"""Tokens of a prompt, at most; of a shipped question with its chat's, some 60 are usual."""


@dataclass
class Text:
    """Tokens that a model goes on with, and whether it ended them itself."""

    tokens: list[int] = field(default_factory=list)
    ended: bool = False


class Gatherer:
    """A pair of models of one tokenizer, in this process."""

    def __init__(
        self, target: Model, draft: Model, dtype: str, length: int, stride: int = STRIDE,
        question: str = PROMPT, words: tuple[str, str] = ("Yes", "No"), room: int = ROOM,
    ) -> None:  # fmt: skip
        if not target.text.tokenizer.same_tokens(draft.text.tokenizer):
            raise UsageError("the models' tokenizers differ: foundryc calibrate takes such a pair")
        shared = min(target.config.vocab, draft.config.vocab)
        target, draft = target.narrowed(shared), draft.narrowed(shared)
        self.text, self.length, self._stride = target.text, length, stride
        chat, tokenizer = self.text.chat, self.text.tokenizer
        self.stops = set(chat.stops)
        self.suffix = tokenizer.encode(chat.judge_suffix("", question))
        self.words = [tokenizer.single(word) for word in words]
        longest, cuts = room + length, -(-length // stride)
        self._branches = _TOGETHER * (cuts + 1)
        self.judge = Network(target, dtype, 1, longest, cuts * len(self.suffix))
        self.target = self.judge.beside(self._branches)
        self.draft = Network(draft, dtype, self._branches, longest)

    def gather(self, questions: Sequence[Question]) -> Iterator[dict[str, Any]]:
        """The lines of some questions, `_TOGETHER` at most."""
        prompts = [self.text.tokenizer.encode(self.text.chat.prompt(q.prompt)) for q in questions]
        drafts, likelihoods = self._drafts(prompts)
        found, branches, slot = [], [], 0
        for prompt, draft, own in zip(prompts, drafts, likelihoods, strict=True):
            line, first, going_on = self._verified(prompt, draft)
            line["draft_log_likelihood"] = own
            for cut, following in [(0, first), *going_on]:
                length = len(prompt) + cut
                self._copy(slot, length)
                branches.append((line, cut, length, following))
                slot += 1
            found.append(line)
        starts = [length for _, _, length, _ in branches]
        firsts = [following for _, _, _, following in branches]
        rooms = [self.length - cut for _, cut, _, _ in branches]
        for (line, cut, _, _), text in zip(
            branches, self._decode(self.target, starts, firsts, rooms), strict=True
        ):
            line["behind"][str(cut)] = {"tokens": text.tokens, "ended": text.ended}
        for number, (prompt, draft, line) in enumerate(zip(prompts, drafts, found, strict=True)):
            # The latest cut first: the rows before it are still the draft's.
            for cut, behind in reversed(line["behind"].items()):
                known = [*prompt, *draft.tokens[: int(cut)]]
                behind["drafted_alike"] = self._alike(number, known, behind["tokens"])
        for question, line in zip(questions, found, strict=True):
            yield {"prompt": question.prompt, "answer": question.answer, **line}

    def _drafts(self, prompts: list[list[int]]) -> tuple[list[Text], list[list[float]]]:
        hidden = [self.draft.read(i, prompt)[-1:] for i, prompt in enumerate(prompts)]
        scores = self.draft.logits(torch.cat(hidden))
        said: list[list[float]] = [[] for _ in prompts]
        firsts = scores.argmax(-1).tolist()
        for i, first in enumerate(firsts):
            said[i].append(_likelihood(scores[i], first))
        starts = [len(prompt) for prompt in prompts]
        texts = self._decode(self.draft, starts, firsts, [self.length] * len(prompts), said)
        return texts, [
            _rounded(one[: len(text.tokens)]) for one, text in zip(said, texts, strict=True)
        ]

    def _copy(self, slot: int, length: int) -> None:
        """The first rows of what was judged, whole blocks of them, to a slot of the target."""
        own, other = self.judge.cache, self.target.cache
        blocks = slice(blocks_of(length))
        other.values[other.tables[slot, blocks].long()] = own.values[own.tables[0, blocks].long()]

    def _decode(
        self, network: Network, starts: list[int], firsts: list[int], rooms: list[int],
        said: list[list[float]] | None = None,
    ) -> list[Text]:  # fmt: skip
        """Slot i goes on from its `starts[i]` tokens with `firsts[i]`, greedily."""
        texts = [Text() for _ in starts]
        coming = dict(enumerate(firsts))
        while coming:
            for i, token in list(coming.items()):
                texts[i].ended = token in self.stops
                if not texts[i].ended:
                    texts[i].tokens.append(token)
                if texts[i].ended or len(texts[i].tokens) >= rooms[i]:
                    del coming[i]
            if not coming:
                break
            slots = list(coming)
            places = [starts[i] + len(texts[i].tokens) - 1 for i in slots]
            scores = network.step(slots, [coming[i] for i in slots], places)
            for row, (i, token) in enumerate(zip(slots, scores.argmax(-1).tolist(), strict=True)):
                coming[i] = token
                if said is not None:
                    said[i].append(_likelihood(scores[row], token))
        return texts

    def _verified(
        self, prompt: list[int], draft: Text
    ) -> tuple[dict[str, Any], int, list[tuple[int, int]]]:
        """What the pass finds; the target's first token; cuts to go on from, with what follows."""
        count, before = len(draft.tokens), len(prompt) - 1
        cuts = stride_cuts(count, self._stride)
        trunk, ends = self.judge.verify(
            0, [*prompt, *draft.tokens], self.suffix, [len(prompt) + cut for cut in cuts]
        )
        likelihood = self.judge.logits(trunk[before:]).log_softmax(-1, dtype=torch.float32)
        choices = likelihood.argmax(-1).tolist()
        drafted = torch.tensor(draft.tokens, dtype=torch.int64)
        own = likelihood[:count].gather(1, drafted[:, None])[:, 0]
        odds = self.judge.log_odds(ends, *self.words)
        rounded = self.judge.logits(ends)[:, self.words].float()
        unlike = [choice != token for choice, token in zip(choices, draft.tokens, strict=False)]
        line: dict[str, Any] = {
            "draft": {"tokens": draft.tokens, "ended": draft.ended}, "cuts": cuts,
            "log_odds": _rounded(odds.tolist()), "choices": choices,
            "log_odds_of_logits": _rounded((rounded[:, 0] - rounded[:, 1]).tolist()),
            "log_likelihood": _rounded(own.tolist()),
            "top_log_likelihood": _rounded(likelihood.amax(-1)[:count].tolist()),
            "entropy": _rounded(_entropy(likelihood[:count]).tolist()), "behind": {},
        }  # fmt: skip
        # Behind cuts with nothing unlike between them the target goes on alike.
        going_on = [
            (cut, choices[cut])
            for cut, later in pairwise(cuts)
            if any(unlike[:cut]) and (later == count or any(unlike[cut:later]))
        ]
        return line, choices[0], going_on

    def _alike(self, slot: int, known: list[int], tokens: list[int]) -> str:
        """Of each token, whether the draft model would have drafted it behind those before.

        The slot holds what is `known` but its last token.
        """
        if not tokens:
            return ""
        hidden = self.draft.read(slot, [known[-1], *tokens[:-1]], len(known) - 1)
        drafted = self.draft.logits(hidden).argmax(-1).tolist()
        return "".join(str(int(a == b)) for a, b in zip(drafted, tokens, strict=True))


def _likelihood(scores: Tensor, token: int) -> float:
    return float(scores.log_softmax(-1, dtype=torch.float32)[token])


def _entropy(likelihood: Tensor) -> Tensor:
    return -(likelihood.exp() * likelihood.clamp(min=-100)).sum(-1)


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]


def unasked(output: Path, questions: int, given: Path | None = None) -> list[Question]:
    """The first questions of `given`, or of those that ship, that `output` has no line of."""
    known = set()
    if output.exists():
        known = {json.loads(line)["prompt"] for line in output.read_text().splitlines()}
    wanted = shipped.make(questions)
    if given:
        lines = map(json.loads, given.read_text(encoding="utf-8").splitlines()[:questions])
        wanted = [Question(line["prompt"], line["answer"]) for line in lines]
    return [question for question in wanted if question.prompt not in known]


def run(
    model: Annotated[str, Option(help="Target, as of foundryc capture.")],
    draft: Annotated[str, Option(help="Its draft model, of the same tokenizer.")],
    output: Annotated[Path, Option("--output", "-o", metavar="FILE", help="JSON lines.")],
    questions: Annotated[int, Option(help="How many of those that ship.")] = 200,
    given: Annotated[
        Path | None, Option("--input", help="JSON lines of prompts and answers in their place.")
    ] = None,
    room: Annotated[int, Option(help="Longest question in tokens, with the chat's.")] = ROOM,
    length: Annotated[int, Option(help="Longest answer in tokens.")] = 64,
    dtype: Annotated[str, Option(help="float32 or bfloat16.")] = "bfloat16",
    stride: Annotated[int, Option(help="Tokens between cuts.")] = STRIDE,
    processes: Annotated[int, Option(help="Each with one thread; they share the weights.")] = 1,
) -> None:
    """Gather drafts of a pair on a CPU."""
    torch.set_num_threads(1)
    left = unasked(output, questions, given)
    with torch.inference_mode():
        models = open_model(model), open_model(draft)
        gatherer = Gatherer(*models, dtype, length, stride, room=room)
        say(f"{len(left)} of {questions} questions are left")
        # Forked behind the loading, so that all have the same weights in memory.
        children: list[int] = []
        number = 0
        for other in range(1, processes):
            if (child := os.fork()) == 0:
                number, children = other, []
                break
            children.append(child)
        own = left[number::processes]
        for begin in range(0, len(own), _TOGETHER):
            lines = list(gatherer.gather(own[begin : begin + _TOGETHER]))
            with output.open("a") as file:
                file.write("".join(json.dumps(line) + "\n" for line in lines))
            say(f"process {number}: {begin + len(lines)} of {len(own)}")
    if number:
        os._exit(0)
    for child in children:
        if os.waitpid(child, 0)[1]:
            raise SystemExit("a process failed: run the command again for the rest")
