"""The next token from logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foundryrt.errors import UsageError


@dataclass(frozen=True)
class Prediction:
    """What a model says of the next token; logits float32 [vocab] are fetched only when used."""

    token: int
    logits: Callable[[], NDArray[np.float32]]


class Sampler:
    """Greedy at temperature 0; otherwise softmax(logits / temperature) with a seeded generator."""

    def __init__(self, temperature: float = 0.0, seed: int = 0) -> None:
        if not 0 <= temperature < float("inf"):
            raise UsageError(f"temperature {temperature}: a finite number >= 0 is needed")
        if seed < 0:
            raise UsageError(f"seed {seed}: a number >= 0 is needed")
        self._temperature = temperature
        self._random = np.random.default_rng(seed)

    def pick(self, prediction: Prediction) -> int:
        """The id of the next token."""
        if self._temperature == 0:
            return prediction.token
        # Gumbel's trick: the largest of noisy logits is a draw from their softmax.
        scores = prediction.logits().astype(np.float64) / self._temperature
        return int(np.argmax(scores + self._random.gumbel(size=scores.shape)))
