"""How well a network in training judges prefixes, and which threshold suits it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.arith import judged, task
from benchmarks.arith.generation import dtype, first_wrong
from benchmarks.arith.network import Network
from benchmarks.arith.vocabulary import NO, YES, ids

THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99)


@torch.no_grad()
def measure(network: Network, problems: task.Problems, answers: Tensor) -> dict[str, Any]:
    """Rates of false accepts and false rejects of random cuts of answers [B, ANSWER + 1]."""
    scores, correct = [], []
    device = answers.device
    generator = torch.Generator(device).manual_seed(1)
    for rows in torch.arange(len(answers), device=device).split(512):
        batch = judged.batch(problems.at(rows), answers[rows], generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            hidden, _ = network(batch.tokens, batch.positions, batch.mask.to(dtype(device)))
            logits = network.lm_head(hidden[:, judged.SHARED :]).float()
        last = logits.unflatten(1, (judged.CUTS, -1))[:, :, -1]
        words = torch.tensor([ids(YES)[0], ids(NO)[0]], device=device)
        scores.append(last[:, :, words].softmax(-1)[:, :, 0].flatten())
        label = batch.labels[:, judged.SHARED :].unflatten(1, (judged.CUTS, -1))[:, :, -1]
        correct.append((label == words[0]).flatten())
    score, truth = torch.cat(scores), torch.cat(correct)
    wrong = first_wrong(problems, answers)
    return {
        "cuts": len(score),
        "right": truth.float().mean().item(),
        "drafts_right": (wrong > problems.answer_length).float().mean().item(),
        "by_threshold": [
            {
                "threshold": threshold,
                "false_accept": _share(score[~truth] >= threshold),
                "false_reject": _share(score[truth] < threshold),
            }
            for threshold in THRESHOLDS
        ],
    }


def _share(flags: Tensor) -> float | None:
    return flags.float().mean().item() if len(flags) else None
