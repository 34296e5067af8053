"""The sampler on the host: tokens of one answer, from the logits of its passes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foundryrt.errors import FoundryError, UsageError
from parse_runtime.sampling import processors
from parse_runtime.sampling.noise import gumbel
from parse_runtime.sampling.processing import Processing


@dataclass(frozen=True)
class TokenLogprobs:
    """A token's own log probability, and the likeliest tokens in its place, likeliest first.

    They are those of the model itself: of its logits before anything is done to them.
    """

    token: int
    logprob: float
    top: Sequence[tuple[int, float]] = ()
    offset: int = 0
    """Characters of the answer before the token."""


class Sampler:
    """Give it the logits of each pass in turn, and `advance` it by the token that was kept.

    The order is transformers': bias, penalties, what is allowed, temperature, top-k, top-p, min-p.
    The draw has the noise of the graphs, so with a `Processing` that changes nothing it gives
    the graphs' own tokens.
    """

    def __init__(
        self,
        processing: Processing,
        temperature: float,
        top_p: float,
        seed: int,
        prompt: Sequence[int],
        stops: Iterable[int],
    ) -> None:
        self._processing = processing
        self._temperature, self._top_p, self._seed = temperature, top_p, seed
        self._bias = np.asarray(list(processing.logit_bias), np.int64)
        self._added = np.asarray(list(processing.logit_bias.values()), np.float32)
        self._stops = np.asarray(sorted(stops), np.int64)
        self._prompt = set(prompt)
        self._counts: dict[int, int] = {}
        self._given = 0
        self._matcher = processing.grammar.start() if processing.grammar else None

    @property
    def ended(self) -> bool:
        """The answer is complete by its grammar: nothing may follow."""
        return self._matcher is not None and self._matcher.ended

    def choose(self, logits: NDArray[np.float32], position: int) -> int:
        """The token after the row at `position`, whose logits are float32 [vocabulary].

        UsageError where what is asked for allows no token, FoundryError where the logits are none.
        """
        scores = self._processed(logits)
        if not np.isfinite(scores.max()):
            if not np.isfinite(logits.max()):
                raise FoundryError("no token may follow: the model's logits are not finite")
            raise UsageError("no token may follow: grammar, biases and penalties leave none")
        if not self._temperature:
            return int(scores.argmax())
        scores /= np.float32(self._temperature)
        processors.keep_top_k(scores, self._processing.top_k)
        processors.keep_nucleus(scores, self._top_p)
        processors.keep_min_p(scores, self._processing.min_p)
        ids = np.flatnonzero(scores > processors.NEVER)
        return int(ids[(scores[ids] + gumbel(self._seed, position, ids)).argmax()])

    def advance(self, token: int) -> None:
        """`token` is part of the answer."""
        self._counts[token] = self._counts.get(token, 0) + 1
        self._given += 1
        if self._matcher is not None:
            self._matcher.advance(token)

    def logprobs(self, logits: NDArray[np.float32], token: int) -> list[TokenLogprobs]:
        """What is to be said of `token`, chosen from `logits`: one entry, or none."""
        count = self._processing.logprobs
        if count is None:
            return []
        found = processors.log_softmax(logits)
        count = min(count, len(logits))
        best = np.argpartition(logits, -count)[len(logits) - count :]
        best = best[np.lexsort((best, -logits[best]))]
        top = [(int(i), float(found[i])) for i in best]
        return [TokenLogprobs(token, float(found[token]), top)]

    def _processed(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        wanted, scores = self._processing, logits.astype(np.float32)
        scores[self._bias] += self._added
        if wanted.repetition_penalty != 1:
            seen = np.asarray(sorted(self._prompt | self._counts.keys()), np.int64)
            processors.penalize_repetition(scores, seen, wanted.repetition_penalty)
        if wanted.presence_penalty or wanted.frequency_penalty:
            processors.penalize_counts(
                scores, np.asarray(list(self._counts), np.int64),
                np.asarray(list(self._counts.values()), np.int64),
                wanted.presence_penalty, wanted.frequency_penalty,
            )  # fmt: skip
        if self._matcher is not None:
            scores[~self._matcher.allowed(len(scores))] = processors.NEVER
        if self._given < wanted.min_tokens:
            scores[self._stops] = processors.NEVER
        return scores
