"""The engine's models as graphs of a session (or of `parse_runtime.eager`, which looks alike)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from foundryrt.errors import UsageError
from parse_runtime.layout import causal, verification
from parse_runtime.sampling import Prediction


class Graph(Protocol):
    """A pass, ready to launch."""

    def launch(self) -> object: ...

    def read(self, name: str) -> NDArray[Any]: ...


class Session(Protocol):
    """The part of `foundryrt.session.Session` that is used here."""

    @property
    def graphs(self) -> Sequence[tuple[str, Mapping[str, int | str]]]: ...

    def write(self, name: str, values: NDArray[Any]) -> None: ...

    def graph(self, name: str, **key: int | str) -> Graph: ...


class GraphModel:
    """One model of a session in one slot of its cache; a `roles.Target`."""

    def __init__(self, session: Session, name: str, max_len: int, tokenizer: str) -> None:
        self.max_len, self.tokenizer = max_len, tokenizer
        self._session, self._name = session, name
        keys = [(graph, key) for graph, key in session.graphs if graph.startswith(f"{name}.")]
        self._prefill = sorted(int(k["len"]) for g, k in keys if g == f"{name}.prefill")
        self._verify = sorted(
            (int(k["len"]), int(k["cuts"])) for g, k in keys if g == f"{name}.verify"
        )

    def prefill(self, tokens: Sequence[int], start: int) -> Prediction:
        """In pieces of the longest bucket, the rest in the shortest that holds it."""
        self._check(start + len(tokens))
        longest = self._prefill[-1]
        for begin in range(0, len(tokens), longest):
            piece = tokens[begin : begin + longest]
            length = next(bucket for bucket in self._prefill if bucket >= len(piece))
            plan = causal(piece, start + begin, length, self.max_len)
            wanted = np.asarray([len(piece) - 1], np.int64)
            graph = self._launch("prefill", f"{length}", plan, wanted, len=length)
        return self._prediction(graph)

    def decode(self, token: int, position: int) -> Prediction:
        """One step of slot 0."""
        self._check(position + 1)
        plan = causal([token], position, 1, self.max_len)
        return self._prediction(self._launch("decode", "1", plan, None, batch=1))

    def verify(
        self, trunk: Sequence[int], start: int, suffix: Sequence[int], cuts: Sequence[int]
    ) -> list[float]:
        """One pass where a captured one is large enough; otherwise the trunk is brought in
        before, and the cuts are spread over several passes.
        """
        self._check(start + len(trunk))
        longest, most = self._verify[-1]
        if len(suffix) > longest:
            raise UsageError(
                f"the judge's question has {len(suffix)} tokens, the largest verify pass "
                f"{longest} rows: capture with a larger --verify"
            )
        if self._fitting(len(trunk) + len(suffix) * len(cuts), len(cuts)) is None and trunk:
            self.prefill(trunk, start)
            trunk, start = [], start + len(trunk)
        verdicts: list[float] = []
        share = len(cuts) if trunk else min(most, longest // len(suffix))
        for begin in range(0, len(cuts), share):
            verdicts += self._one_pass(trunk, start, suffix, cuts[begin : begin + share])
        return verdicts

    def _one_pass(
        self, trunk: Sequence[int], start: int, suffix: Sequence[int], cuts: Sequence[int]
    ) -> list[float]:
        found = self._fitting(len(trunk) + len(suffix) * len(cuts), len(cuts))
        length, most = found or self._verify[-1]
        plan, ends = verification(trunk, start, suffix, cuts, length, self.max_len)
        wanted = np.zeros(most, np.int64)
        wanted[: len(ends)] = ends
        graph = self._launch("verify", f"{length}x{most}", plan, wanted, len=length, cuts=most)
        return [float(verdict) for verdict in graph.read("verdicts")[: len(cuts)]]

    def _fitting(self, rows: int, cuts: int) -> tuple[int, int] | None:
        """The shortest verify pass with room for so many rows and cuts."""
        return next((v for v in self._verify if v[0] >= rows and v[1] >= cuts), None)

    def _launch(
        self,
        graph: str,
        size: str,
        plan: NDArray[np.int64],
        wanted: NDArray[np.int64] | None,
        **key: int,
    ) -> Graph:
        inputs = f"{self._name}.{graph}.{size}"
        self._session.write(f"{inputs}.plan", plan)
        if wanted is not None:
            self._session.write(f"{inputs}.wanted", wanted)
        launched = self._session.graph(f"{self._name}.{graph}", **key)
        launched.launch()
        return launched

    def _prediction(self, graph: Graph) -> Prediction:
        return Prediction(int(graph.read("token")[0]), lambda: graph.read("logits")[0])

    def _check(self, length: int) -> None:
        if length > self.max_len:
            raise UsageError(
                f"a sequence of {length} tokens exceeds the {self.max_len} of the bundle: "
                "capture with a larger --max-len"
            )
