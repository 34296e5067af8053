"""Training for a given time: the learning rate falls with the clock, not a count of steps."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from foundryrt.console import note

_WARM_UP = 30
"""Steps."""
_LAST = 0.02
"""Of the highest rate."""


def optimizer(modules: Iterable[nn.Module], rate: float) -> torch.optim.AdamW:
    """AdamW; matrices decay, vectors do not."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    fused = parameters[0].is_cuda
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=fused)


class Clock:
    """Sets the rate: a linear rise over the first steps, and a cosine over the time."""

    def __init__(self, seconds: float, adam: torch.optim.Optimizer, rate: float) -> None:
        self.steps = 0
        self._seconds, self._adam, self._rate = seconds, adam, rate
        self._begin = self._shown = time.perf_counter()

    def running(self) -> bool:
        """Whether another step is due; sets its rate."""
        part = self._part()
        cosine = _LAST + (1 - _LAST) * (1 + math.cos(math.pi * min(part, 1.0))) / 2
        for group in self._adam.param_groups:
            group["lr"] = self._rate * min((self.steps + 1) / _WARM_UP, 1.0) * cosine
        return part < 1

    def step(self, loss: Tensor) -> None:
        """After each step; a line on stderr every ten seconds."""
        self.steps += 1
        if self.steps % 8 == 0:
            # Keeps the queue of launches short, so that the clock says how far the device is.
            value, now = loss.item(), time.perf_counter()
            if now - self._shown > 10:
                self._shown = now
                note(f"step {self.steps}, {self._part():.0%}, loss {value:.4f}")

    def _part(self) -> float:
        return (time.perf_counter() - self._begin) / self._seconds
