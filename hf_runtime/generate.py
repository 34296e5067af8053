"""Answers of a captured model: tokens in, tokens out, by the graphs of its bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foundryrt.errors import FoundryError, UsageError
from foundryrt.protocols import Launchable, SessionLike
from hf_runtime import signature


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen; temperature 0 takes the most probable one."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"temperature {self.temperature}: 0 or more is needed")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top-p {self.top_p}: a number above 0, up to 1")

    def chooser(self) -> Callable[[Launchable], int]:
        """Reads the token that follows from a forward graph that was launched."""
        if not self.temperature:
            return lambda graph: int(graph.read(signature.TOKEN))
        random = np.random.default_rng(self.seed)
        return lambda graph: int(
            random.choice(*nucleus(graph.read(signature.LOGITS), self.temperature, self.top_p))
        )


def nucleus(
    logits: NDArray[np.float32], temperature: float, top_p: float
) -> tuple[NDArray[np.int64], None, bool, NDArray[np.float64]]:
    """What `Generator.choice` takes: the fewest tokens whose probabilities reach `top_p`, and
    these, in float64. Holtzman et al., The Curious Case of Neural Text Degeneration, 2020."""
    scaled = (logits - logits.max()).astype(np.float64) / temperature
    weights = np.exp(scaled)
    order = np.argsort(-weights, kind="stable")
    sums = np.cumsum(weights[order]) / weights.sum()
    kept = order[: 1 + int(np.searchsorted(sums, top_p))]
    return kept, None, True, weights[kept] / weights[kept].sum()


class CapturedModel:
    """The graphs of a session; one sequence at a time."""

    def __init__(self, session: SessionLike) -> None:
        length = session.settings.get("max_len")
        self._reset = session.graph(signature.RESET)
        self._forward = {
            count: session.graph(name, **key)
            for name, key in session.graphs
            if name == signature.FORWARD and isinstance(count := key.get("tokens"), int)
        }
        if not isinstance(length, int) or length < 1 or min(self._forward, default=0) != 1:
            raise FoundryError(
                "damaged bundle: its setting max_len or its pass of 1 token is missing"
            )
        self.max_len = length
        """Tokens of prompt and answer."""
        self._sizes = sorted(self._forward, reverse=True)

    def answer(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[int]:
        """Token after token of what follows `prompt`, until the cache is full.

        UsageError where the prompt is empty or leaves no room.
        """
        if not prompt:
            raise UsageError("the prompt has no tokens")
        if len(prompt) >= self.max_len:
            raise UsageError(
                f"a prompt of {len(prompt)} tokens leaves no room in the {self.max_len} of the"
                " bundle: shorten it, or capture with a larger --max-len"
            )
        choose = sampling.chooser()
        self._reset.launch()
        graph = self._read(prompt)
        for _ in range(self.max_len - len(prompt)):
            token = choose(graph)
            yield token
            graph = self._read([token])
        yield choose(graph)

    def _read(self, tokens: Sequence[int]) -> Launchable:
        """Pass `tokens` through the model, the most at once first; the graph that read the last.

        No pass is padded: what a cache counts is what it holds.
        """
        at = 0
        while True:
            size = next(size for size in self._sizes if size <= len(tokens) - at)
            graph = self._forward[size]
            graph.write(signature.tokens(size), np.array([tokens[at : at + size]], np.int64))
            graph.launch()
            at += size
            if at == len(tokens):
                return graph
