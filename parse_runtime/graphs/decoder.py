"""The engine's models as graphs of a session (or of `parse_runtime.capture.eager`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from foundryrt.errors import UsageError
from parse_runtime.engine.protocols import Sampling
from parse_runtime.signature.plan import causal, padded


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


def pieces(count: int, sizes: Sequence[int]) -> Iterator[tuple[slice, int]]:
    """Pieces of the largest of the rising `sizes`, the rest with the smallest that holds it."""
    for begin in range(0, count, sizes[-1]):
        part = slice(begin, min(begin + sizes[-1], count))
        yield part, next(size for size in sizes if size >= part.stop - part.start)


class GraphDecoder:
    """One model of a session; a `roles.Decoder`."""

    def __init__(self, session: Session, name: str, max_len: int, slots: int) -> None:
        self.max_len, self.slots = max_len, slots
        self.held = np.full((slots, max_len), -1, np.int64)
        """The token that each row of each slot was computed from."""
        self._session, self._name = session, name
        self._written: dict[str, NDArray[Any]] = {}
        self._graphs: dict[tuple[str | int, ...], Graph] = {}
        self._prefill = self._sizes("prefill", "len")
        self._decode = self._sizes("decode", "batch")

    def prefill(self, slot: int, tokens: Sequence[int], start: int, sampling: Sampling) -> int:
        """In pieces of the longest bucket, the rest in the shortest that holds it."""
        self._check(start + len(tokens), [slot])
        self.held[slot, start : start + len(tokens)] = tokens
        self._write("slot", np.asarray([slot], np.int64))
        for part, length in pieces(len(tokens), self._prefill):
            piece, inputs = tokens[part], f"prefill.{length}"
            self._write(f"{inputs}.plan", causal(piece, start + part.start, length, self.max_len))
            self._write(f"{inputs}.wanted", np.asarray([len(piece) - 1], np.int64))
            self._write_sampling(inputs, [sampling], 1)
            self._before_piece(inputs, tokens, part.stop)
            graph = self._launch("prefill", len=length)
        return int(graph.read("token")[0])

    def decode(
        self,
        slots: Sequence[int],
        tokens: Sequence[int],
        positions: Sequence[int],
        samplings: Sequence[Sampling],
    ) -> list[int]:
        """In pieces of the largest batch, the rest in the smallest that holds it."""
        self._hold(slots, tokens, positions)
        result: list[int] = []
        for part, batch in pieces(len(slots), self._decode):
            plan, count = padded(batch, self.max_len), part.stop - part.start
            here = np.asarray(positions[part], np.int64)
            plan[:, :count] = tokens[part], here, here, here + 1, here
            self._write(f"decode.{batch}.plan", plan)
            self._write_slots(f"decode.{batch}", slots[part], samplings[part], batch)
            result += self._launch("decode", batch=batch).read("token")[:count].tolist()
        return result

    def _before_piece(self, inputs: str, tokens: Sequence[int], end: int) -> None:
        """What a prefill of the tokens before `end` needs to know of those after."""

    def _hold(self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]) -> None:
        self._check(max(positions) + 1, slots)
        self.held[np.asarray(slots), np.asarray(positions)] = tokens

    def _write_slots(
        self, inputs: str, slots: Sequence[int], samplings: Sequence[Sampling], batch: int
    ) -> None:
        # Padding goes to the padding row of the first slot.
        filled = np.zeros(batch, np.int64)
        filled[: len(slots)] = slots
        self._write(f"{inputs}.slots", filled)
        self._write_sampling(inputs, samplings, batch)

    def _write_sampling(self, inputs: str, samplings: Sequence[Sampling], batch: int) -> None:
        values, seeds = np.zeros((2, batch), np.float32), np.zeros(batch, np.int64)
        values[1] = 1
        for i, sampling in enumerate(samplings):
            values[:, i] = sampling.temperature, sampling.top_p
            seeds[i] = sampling.seed
        self._write(f"{inputs}.sampling", values)
        self._write(f"{inputs}.seeds", seeds)

    def _write(self, name: str, values: NDArray[Any]) -> None:
        """Graphs don't change inputs, so what is there already is not written again."""
        before = self._written.get(name)
        if before is None or not np.array_equal(before, values):
            self._session.write(f"{self._name}.{name}", values)
            self._written[name] = values

    def _launch(self, name: str, **key: int) -> Graph:
        found = (name, *key.values())
        if found not in self._graphs:
            self._graphs[found] = self._session.graph(f"{self._name}.{name}", **key)
        self._graphs[found].launch()
        return self._graphs[found]

    def _sizes(self, name: str, key: str) -> list[int]:
        found = (k for graph, k in self._session.graphs if graph == f"{self._name}.{name}")
        return sorted(int(k[key]) for k in found)

    def _check(self, length: int, slots: Sequence[int]) -> None:
        if length > self.max_len:
            raise UsageError(
                f"a sequence of {length} tokens exceeds the {self.max_len} of the bundle: "
                "capture with a larger --max-len"
            )
        if not 0 <= min(slots) <= max(slots) < self.slots:
            raise UsageError(f"slots {list(slots)}: the bundle has {self.slots}")
