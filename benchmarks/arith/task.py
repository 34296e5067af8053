"""The task: chains of +, - and * modulo 1000, each solved in lettered lines.

Question   037 a+085 b*006 c-311
Solution   a 037+085=122
           b 122*006=732
           c 732-311=421
           #421

Numbers have three digits, a multiplier is 2 to 9. The solution of a question is unique, so a
prefix of an answer is right when it is a prefix of the solution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from benchmarks.arith.vocabulary import ASSISTANT, END, USER, ids

STEPS = (6, 9)
"""Fewest and most steps of a problem."""
MODULUS = 1000
LINE, LAST = 14, 4
"""Tokens of a line, and of the last one."""
PROMPT = 5 + 6 * STEPS[1]
"""Most tokens of a prompt, with the turns' tokens."""
ANSWER = LINE * STEPS[1] + LAST
"""Most tokens of an answer."""

_OPERATORS = "+-*"
_DIGITS = ids("0123456789")
_PLACES = (100, 10, 1)


@dataclass(frozen=True)
class Problems:
    """B problems; each Tensor int64."""

    start: Tensor
    """[B]."""
    operators: Tensor
    """[B, STEPS[1]], indices of "+-*"; those from a problem's own number of steps on are unused."""
    operands: Tensor
    """[B, STEPS[1]]."""
    steps: Tensor
    """[B]."""

    @property
    def answer_length(self) -> Tensor:
        """[B], tokens of the solution without the end token."""
        return self.steps * LINE + LAST

    def at(self, chosen: Tensor) -> Problems:
        """Those of the int64 indices `chosen`, in their order."""
        return Problems(
            self.start[chosen], self.operators[chosen], self.operands[chosen], self.steps[chosen]
        )

    def final(self) -> Tensor:
        """[B], the numbers asked for."""
        return self.values().gather(1, self.steps[:, None])[:, 0]

    def values(self, wrong: Tensor | None = None) -> Tensor:
        """[B, STEPS[1] + 1]: the start, and the value after every step.

        `wrong` [B, STEPS[1]] is added to the steps' results, and all that follows goes on from it.
        """
        values = [self.start]
        for index in range(STEPS[1]):
            value = apply(values[-1], self.operators[:, index], self.operands[:, index])
            if wrong is not None:
                value = (value + wrong[:, index]) % MODULUS
            values.append(value)
        return torch.stack(values, 1)


def apply(value: Tensor, operator: Tensor, operand: Tensor) -> Tensor:
    """One step, modulo MODULUS."""
    results = torch.stack((value + operand, value - operand, value * operand))
    return results.gather(0, operator[None])[0] % MODULUS


def draw(count: int, generator: torch.Generator) -> Problems:
    """Problems on the generator's device."""

    def integers(low: int, high: int, *shape: int) -> Tensor:
        device = generator.device
        return torch.randint(low, high, shape, generator=generator, device=device)

    shape = (count, STEPS[1])
    operators = integers(0, len(_OPERATORS), *shape)
    operands = torch.where(operators == 2, integers(2, 10, *shape), integers(0, MODULUS, *shape))
    return Problems(
        integers(0, MODULUS, count), operators, operands, integers(STEPS[0], STEPS[1] + 1, count)
    )


def prompts(problems: Problems) -> tuple[Tensor, Tensor]:
    """Tokens [B, PROMPT] of the rendered conversations, zero behind, and their lengths [B]."""
    b, device = problems.start.shape[0], problems.start.device
    rows = torch.zeros(b, PROMPT, dtype=torch.int64, device=device)
    rows[:, 0] = ids(USER)[0]
    rows[:, 1:4] = _digits(problems.start)
    steps = rows[:, 4:-1].unflatten(1, (STEPS[1], 6))
    steps[:, :, 0] = ids(" ")[0]
    steps[:, :, 1] = _letters(device)
    steps[:, :, 2] = _operators(problems.operators)
    steps[:, :, 3:] = _digits(problems.operands)
    lengths = 5 + 6 * problems.steps
    position = torch.arange(PROMPT, device=device)
    rows = rows.masked_fill(position >= lengths[:, None] - 1, 0)
    rows[torch.arange(b, device=device), lengths - 1] = ids(ASSISTANT)[0]
    return rows, lengths


def answers(problems: Problems, values: Tensor, operands: Tensor | None = None) -> Tensor:
    """Tokens [B, ANSWER + 1] of solutions that go through `values`, the end token, and zeros.

    `operands` are written instead of the problems' own where given.
    """
    b, device = problems.start.shape[0], problems.start.device
    rows = torch.zeros(b, ANSWER + 1, dtype=torch.int64, device=device)
    lines = rows[:, : LINE * STEPS[1]].unflatten(1, (STEPS[1], LINE))
    lines[:, :, 0] = _letters(device)
    lines[:, :, 1] = ids(" ")[0]
    lines[:, :, 2:5] = _digits(values[:, :-1])
    lines[:, :, 5] = _operators(problems.operators)
    lines[:, :, 6:9] = _digits(problems.operands if operands is None else operands)
    lines[:, :, 9] = ids("=")[0]
    lines[:, :, 10:13] = _digits(values[:, 1:])
    lines[:, :, 13] = ids("\n")[0]
    length = problems.answer_length
    position = torch.arange(ANSWER + 1, device=device)
    rows = rows.masked_fill(position >= length[:, None] - LAST, 0)
    last = torch.empty(b, LAST + 1, dtype=torch.int64, device=device)
    last[:, 0] = ids("#")[0]
    last[:, 1:4] = _digits(values.gather(1, problems.steps[:, None])[:, 0])
    last[:, 4] = ids(END)[0]
    places = length[:, None] - LAST + torch.arange(LAST + 1, device=device)
    return rows.scatter(1, places, last)


@lru_cache
def constant(values: Sequence[int], device: torch.device) -> Tensor:
    """Int64 on the device, copied there once: a copy would wait for all that is queued."""
    return torch.tensor(values, device=device)


def grade(text: str) -> int | None:
    """The number an answer ends with; None where it has none."""
    _, mark, number = text.rstrip("\n").rpartition("#")
    return int(number) if mark and number.isdecimal() and len(number) == 3 else None


def alphabet() -> list[int]:
    """Every token that a solution may hold."""
    letters = "".join(chr(ord("a") + step) for step in range(STEPS[1]))
    return sorted({*_DIGITS, *ids(f"{letters}{_OPERATORS} =#\n"), *ids(END)})


def _digits(numbers: Tensor) -> Tensor:
    table, places = constant(tuple(_DIGITS), numbers.device), constant(_PLACES, numbers.device)
    return table[numbers[..., None] // places % 10]


def _operators(indices: Tensor) -> Tensor:
    return constant(tuple(ids(_OPERATORS)), indices.device)[indices]


def _letters(device: torch.device) -> Tensor:
    return constant(tuple(ids(chr(ord("a") + step))[0] for step in range(STEPS[1])), device)
