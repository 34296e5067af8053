"""Whole answers of a network in training, many problems at once."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.arith import task
from benchmarks.arith.network import Network
from benchmarks.arith.vocabulary import END, ids


@torch.no_grad()
def generate(
    network: Network, problems: task.Problems, temperature: float, generator: torch.Generator
) -> Tensor:
    """Tokens [B, ANSWER + 1] of answers, with the end token, and zeros after it.

    Prompts are fed token by token, so that prompts of different lengths advance together.
    """
    prompts, lengths = task.prompts(problems)
    b, device = prompts.shape[0], prompts.device
    rows = task.PROMPT + task.ANSWER + 1
    tokens = torch.zeros(b, rows, dtype=torch.int64, device=device)
    tokens[:, : task.PROMPT] = prompts
    cache = network.new_cache(b, rows, dtype(device))
    ended = torch.zeros(b, dtype=torch.bool, device=device)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        for position in range(rows - 1):
            logits = network.step(tokens[:, position], position, cache)
            if temperature:
                weights = (logits / temperature).softmax(-1)
                chosen = torch.multinomial(weights, 1, generator=generator)[:, 0]
            else:
                chosen = logits.argmax(-1)
            answering = position + 1 >= lengths
            chosen = chosen.masked_fill(ended, 0)
            tokens[:, position + 1] = torch.where(answering, chosen, tokens[:, position + 1])
            ended |= answering & (chosen == ids(END)[0])
    places = lengths[:, None] + torch.arange(task.ANSWER + 1, device=device)
    inside = places < rows
    return tokens.gather(1, places.clamp(max=rows - 1)).masked_fill(~inside, 0)


def dtype(device: torch.device) -> torch.dtype:
    """What training computes in."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def right(problems: task.Problems, answers: Tensor) -> Tensor:
    """Bool [B]: the whole answer is the solution."""
    return first_wrong(problems, answers) > problems.answer_length


def first_wrong(problems: task.Problems, answers: Tensor) -> Tensor:
    """[B], index of the first token that is not the solution's; ANSWER + 1 where none is."""
    solution = task.answers(problems, problems.values())
    index = torch.arange(task.ANSWER + 1, device=answers.device)
    differs = (answers != solution) & (index <= problems.answer_length[:, None])
    return torch.where(differs, index, task.ANSWER + 1).min(1).values
