"""Training batches of the target: solutions to write, and prefixes of answers to judge.

A row of a batch is an answer followed by one judge suffix for each of several cuts, under the
mask of one-pass verification (docs/parse.md), so that one pass trains on many verdicts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.arith import task
from benchmarks.arith.generation import first_wrong
from benchmarks.arith.vocabulary import ASSISTANT, END, JUDGEMENT, NO, USER, YES, ids

CUTS = 8
SUFFIX = ids(f"{END}{USER}{JUDGEMENT}{ASSISTANT}")
SHARED = -(-(task.PROMPT + task.ANSWER + 1) // 8) * 8
"""Rows of prompt and answer, which all cuts share; attention with a mask is fastest at multiples of
eight."""
IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """[B, T] each, with T = SHARED + CUTS * len(SUFFIX)."""

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    """[B, 1, T, T], 0 where a key is seen and -inf elsewhere."""
    labels: Tensor
    """The token to predict at each row, or IGNORED."""
    right: Tensor
    """[B, SHARED], 1 where the answer so far is right, 0 where it is not, IGNORED elsewhere."""


def corrupted(problems: task.Problems, generator: torch.Generator) -> Tensor:
    """Tokens [B, ANSWER + 1] of answers with one mistake: a wrong digit that the rest follows,
    a wrong operand, or a wrong digit that the rest ignores.
    """
    b, device = problems.start.shape[0], problems.start.device

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator, device=device)

    def one_step(values: Tensor) -> Tensor:
        step = (integers(0, 1 << 30, b) % problems.steps)[:, None]
        return torch.zeros(b, task.STEPS[1], dtype=torch.int64, device=device).scatter(
            1, step, values[:, None]
        )

    places = task.constant((1, 10, 100), device)
    error = integers(1, 10, b) * places[integers(0, 3, b)]
    followed = task.answers(problems, problems.values(one_step(error)))
    misread = (problems.operands + one_step(error)) % task.MODULUS
    wrong = task.Problems(problems.start, problems.operators, misread, problems.steps)
    misread_rows = task.answers(problems, wrong.values(), misread)
    typed = task.answers(problems, problems.values())
    place = (integers(0, 1 << 30, b) % problems.answer_length)[:, None]
    alphabet = task.constant(tuple(task.alphabet()), device)
    digits = task.constant(tuple(ids("0123456789")), device)
    old = typed.gather(1, place)
    other = torch.where(
        torch.isin(old, digits),
        digits[integers(0, 10, b)[:, None]],
        alphabet[integers(0, len(alphabet), b)[:, None]],
    )
    typed = typed.scatter(1, place, other)
    kind = integers(0, 3, b)[:, None]
    return torch.where(kind == 0, followed, torch.where(kind == 1, misread_rows, typed))


def batch(problems: task.Problems, answers: Tensor, generator: torch.Generator) -> Batch:
    """Of answers [B, ANSWER + 1], right or wrong."""
    prompts, lengths = task.prompts(problems)
    b, device = prompts.shape[0], prompts.device
    index = torch.arange(SHARED, device=device)
    answer_index = index - lengths[:, None]
    inside = (answer_index >= 0) & (answer_index <= task.ANSWER)
    clamped = answer_index.clamp(0, task.ANSWER)
    shared = torch.zeros(b, SHARED, dtype=torch.int64, device=device)
    shared[:, : task.PROMPT] = prompts
    shared = torch.where(inside, answers.gather(1, clamped), shared)
    solution = task.answers(problems, problems.values())
    wrong = first_wrong(problems, answers)

    # Row t predicts answer token t + 1 - length, where all answer tokens before it are right.
    following = answer_index + 1
    predicts = (following >= 0) & (following <= problems.answer_length[:, None])
    predicts &= following <= wrong[:, None]
    label = solution.gather(1, following.clamp(0, task.ANSWER))
    label = label.masked_fill(~predicts, IGNORED)
    written = inside & (answer_index < answer_lengths(answers)[:, None])
    right = (answer_index < wrong[:, None]).long().masked_fill(~written, IGNORED)

    cuts = _cuts(answers, wrong, generator)
    s = len(SUFFIX)
    suffix = task.constant(tuple(SUFFIX), device)
    ends = (lengths[:, None] + cuts)[:, :, None]
    offsets = torch.arange(s, device=device)
    verdict = torch.where(cuts <= wrong[:, None], ids(YES)[0], ids(NO)[0])
    verdicts = torch.full((b, CUTS, s), IGNORED, device=device)
    verdicts[:, :, -1] = verdict
    rows = torch.arange(SHARED + CUTS * s, device=device)
    starts = torch.cat((torch.zeros_like(index), SHARED + torch.arange(CUTS, device=device)
                        .repeat_interleave(s) * s))  # fmt: skip
    below = torch.cat((torch.zeros_like(shared), ends.expand(b, CUTS, s).flatten(1)), 1)
    seen = (rows < below[:, :, None]) | ((rows >= starts[:, None]) & (rows <= rows[:, None]))
    mask = torch.zeros(seen.shape, device=device).masked_fill(~seen, float("-inf"))
    return Batch(
        torch.cat((shared, suffix.repeat(b, CUTS)), 1),
        torch.cat((index.expand(b, -1), (ends + offsets).flatten(1)), 1),
        mask[:, None],
        torch.cat((label, verdicts.flatten(1)), 1),
        right,
    )


def answer_lengths(answers: Tensor) -> Tensor:
    """[B], tokens of answers [B, ANSWER + 1] before the end token."""
    index = torch.arange(answers.shape[1], device=answers.device)
    stops = (answers == ids(END)[0]) | (answers == 0)
    return torch.where(stops, index, task.ANSWER).min(1).values


def _cuts(answers: Tensor, wrong: Tensor, generator: torch.Generator) -> Tensor:
    """[B, CUTS], from 1 to an answer's length: half anywhere, half around the first mistake."""
    b, device = answers.shape[0], answers.device
    length = answer_lengths(answers).clamp(min=1)[:, None]
    spread = torch.randint(0, 1 << 30, (b, CUTS), generator=generator, device=device)
    anywhere = 1 + spread % length
    around = wrong[:, None] - 1 + spread % 8
    near = torch.minimum(around, length).clamp(min=1)
    chosen = torch.arange(CUTS, device=device) % 2 == 0
    return torch.where(chosen & (wrong[:, None] <= length), near, anywhere)
