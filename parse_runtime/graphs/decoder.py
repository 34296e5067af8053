"""A model whose passes are graphs of a session."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foundryrt.errors import UsageError
from foundryrt.protocols import GraphsLike, Launchable, Readback
from parse_runtime.engine.batch import Batch, Chunk, Sampling
from parse_runtime.engine.packing import holding, pack
from parse_runtime.engine.protocols import Logits, Prefilled
from parse_runtime.engine.tables import Tables
from parse_runtime.graphs.first import stands_in
from parse_runtime.graphs.flight import Flight
from parse_runtime.graphs.inputs import Inputs, decode_inputs, prefill_inputs
from parse_runtime.graphs.results import prefilled
from parse_runtime.signature.passes import Input, ModelSignature, PassSignature


def parts_of(count: int, sizes: Sequence[int]) -> Iterator[tuple[slice, int]]:
    """Parts of the largest of the rising `sizes`, the rest with the smallest that holds it."""
    for begin in range(0, count, sizes[-1]):
        part = slice(begin, min(begin + sizes[-1], count))
        yield part, next(size for size in sizes if size >= part.stop - part.start)


class GraphDecoder:
    """One model of a session; a `parse_runtime.engine.protocols.Decoder`.

    Where its signature says `run_ahead`, the device does not wait for the host: before a step's
    tokens are read, the next step is launched, which finds them on the device. At most one step is
    in flight behind the one that is read, and any other pass over one of its slots makes it void.

    Where the graph of a batch is not ready yet, as after a switch of bundles, a larger one that is
    takes its place if rows have the same bits in both.
    """

    def __init__(self, session: GraphsLike, signature: ModelSignature) -> None:
        sizes = signature.sizes
        self.max_len, self.slots, self.prefills = sizes.max_len, sizes.slots, sizes.prefills
        self.row_tokens = np.full((self.slots, self.max_len), -1, np.int64)
        """The token that each row of each slot was computed from."""
        self.tables = Tables(signature)
        self.reach = 2 if signature.run_ahead else 1
        self._session, self._signature = session, signature
        self._prefill = {length: signature.prefill(length) for length in sizes.prefill}
        self._decode = {batch: signature.decode(batch) for batch in sizes.batches}
        self._largest = max(sizes.batches)
        self._written: dict[str, NDArray[Any]] = {}
        self._graphs: dict[PassSignature, Launchable] = {}
        self._ready: set[PassSignature] = set()
        """Passes that are known to be launched without waiting."""
        self._readbacks: dict[PassSignature, list[Readback]] = {}
        self._flight: Flight | None = None
        self._overlaps: bool | None = None
        """Whether launches return before their passes have ended, once that is known."""

    def take_over(self, before: GraphDecoder) -> None:
        """Go on where another decoder stopped, whose cache is this one's too."""
        self.row_tokens, self.tables = before.row_tokens, before.tables

    def hold(self, slot: int, tokens: Sequence[int]) -> None:
        """Its first rows are in blocks that others computed."""
        self.row_tokens[slot, : len(tokens)] = tokens

    def forget(self, slot: int) -> None:
        """The slot holds nothing."""
        self.tables.release(slot)
        self.row_tokens[slot] = -1

    def prefill(self, slot: int, tokens: Sequence[int], start: int, sampling: Sampling) -> int:
        """Put tokens at `start` and after, in as many passes as it takes; the one that follows."""
        [token] = self.prefill_all([Chunk(slot, tokens, start, sampling)])
        return int(token)

    def prefill_all(self, prompts: Sequence[Chunk]) -> list[int | Logits]:
        """As `prefill`, of prompts of different slots, which share passes."""
        done = [0] * len(prompts)
        found: dict[int, int | Logits] = {}
        while left := [i for i in range(len(prompts)) if i not in found]:
            _, rows = pack([len(prompts[i].tokens) - done[i] for i in left], self.prefills)
            taken = list(zip(left, rows, strict=False))
            chunks = [prompts[i].part(done[i], done[i] + count) for i, count in taken]
            for (i, count), result in zip(taken, self.begin_prefill(chunks)(), strict=True):
                done[i] += count
                if result is not None:
                    found[i] = result
        return [found[i] for i in range(len(prompts))]

    def ready(self, chunks: Sequence[Chunk]) -> bool:
        """Whether the pass has its graph; one that is not there yet is made next."""
        return self._is_ready(self._prefill_of(chunks), soon=True)

    def overlaps(self, chunks: Sequence[Chunk]) -> bool:
        """Not where the pass has no graph yet, nor where a launch returns at its end."""
        if not self.ready(chunks):
            return False
        if self._overlaps is None:
            self._overlaps = self._graph(self._prefill_of(chunks)).readback("token").overlaps
        return self._overlaps

    def _prefill_of(self, chunks: Sequence[Chunk]) -> PassSignature:
        """The smallest that holds them."""
        return self._prefill[holding([len(c.tokens) for c in chunks], self.prefills).rows]

    def begin_prefill(self, chunks: Sequence[Chunk]) -> Prefilled:
        """In the smallest pass that holds them; where no prompt ends, nothing is waited for."""
        return partial(prefilled, self._launch(self._write_prefill(chunks)), chunks)

    def _write_prefill(self, chunks: Sequence[Chunk]) -> PassSignature:
        self._take(chunks)
        length, _ = holding([len(chunk.tokens) for chunk in chunks], self.prefills)
        signature = self._prefill[length]
        self._write_inputs(signature, prefill_inputs(signature, chunks, self.max_len))
        return signature

    def _take(self, chunks: Sequence[Chunk]) -> None:
        """See that they have room, and note what their slots are about to hold."""
        for chunk in chunks:
            end = chunk.start + len(chunk.tokens)
            self._check(end, [chunk.slot])
            self._reserve([chunk.slot], [chunk.start], len(chunk.tokens))
            self.row_tokens[chunk.slot, chunk.start : end] = chunk.tokens
        self._make_void([chunk.slot for chunk in chunks])

    def decode(self, batch: Batch) -> list[int]:
        """In parts of the largest pass, the rest in the smallest that holds it."""
        return [token for token in self._step(batch) if token is not None]

    def _step(self, batch: Batch, partly: bool = False) -> list[int | None]:
        """As `decode`.

        `partly`: where some are in flight, their tokens alone; the step behind it has the others.
        """
        self._note(batch)
        flight, self._flight = self._flight, None
        if len(batch) > self._largest:
            parts = parts_of(len(batch), list(self._decode))
            return [token for part, _ in parts for token in self._begin(batch[part]).tokens()]
        places = flight.places(batch, partly) if flight else None
        if flight is None or places is None:
            flight, places = self._begin(batch), range(len(batch))
        if not self._may_run_ahead(flight, batch):
            return flight.tokens(places)
        self._forget_next(batch)
        fitting = self._sized(self._decode, len(batch))[1]
        if places == range(len(flight.batch)) and flight.signature is fitting:
            following = self._fly(flight.signature, batch)
            tokens = flight.tokens(places)
        else:
            # The plan on the device has other sequences, or another order, or another size.
            tokens = flight.tokens(places)
            following = self._begin(batch.followed_by(tokens))
        self._flight = replace(following, batch=batch.followed_by(tokens))
        return tokens

    def _may_run_ahead(self, flight: Flight, batch: Batch) -> bool:
        """Whether to launch the step after that in flight before `batch` is told its tokens."""
        return (
            batch.ahead
            and self._signature.run_ahead
            and flight.readback.overlaps
            and max(batch.positions) + 1 < self.max_len
        )

    def _begin(self, batch: Batch) -> Flight:
        """Launch a step of a batch that fits one pass."""
        return self._fly(self._write_step(batch), batch)

    def _fly(self, signature: PassSignature, batch: Batch) -> Flight:
        """Launch a step whose inputs are there, and have its tokens copied."""
        graph = self._launch(signature)
        if signature not in self._readbacks:
            self._readbacks[signature] = [graph.readback("token") for _ in range(2)]
        # By turns: one brings the tokens of a step while those of the step before are read.
        self._readbacks[signature].reverse()
        readback = self._readbacks[signature][0]
        readback.start()
        return Flight(signature, batch, readback)

    def _decoded(self, batch: Batch) -> Iterator[tuple[Batch, Launchable]]:
        """Parts of the batch, each with the pass that was launched for it."""
        self._note(batch)
        self._flight = None
        for part, _ in parts_of(len(batch), list(self._decode)):
            some = batch[part]
            yield some, self._launch(self._write_step(some))

    def _write_step(self, batch: Batch) -> PassSignature:
        """Write the inputs of the smallest decode pass that holds the batch."""
        size, signature = self._sized(self._decode, len(batch))
        self._write_inputs(signature, decode_inputs(batch, size, self.max_len))
        return signature

    def _make_void(self, slots: Collection[int]) -> None:
        """Forget the step in flight where other rows of its sequences are computed."""
        if self._flight and not set(slots).isdisjoint(self._flight.batch.slots):
            self._flight = None

    def _note(self, batch: Batch) -> None:
        self._check(max(batch.positions) + 1, batch.slots)
        self._reserve(batch.slots, batch.positions, 2 if batch.ahead else 1)
        self.row_tokens[np.asarray(batch.slots), np.asarray(batch.positions)] = batch.tokens

    def _forget_next(self, batch: Batch) -> None:
        """A step ahead fills rows with tokens that may turn out not to be wanted."""
        self.row_tokens[np.asarray(batch.slots), np.asarray(batch.positions) + 1] = -1

    def _write_inputs(self, signature: PassSignature, values: Inputs) -> None:
        for name, array in values.items():
            self._write(signature.inputs[name], array)

    def _write(self, tensor: Input, values: NDArray[Any]) -> None:
        """Graphs don't change inputs, so what is there already is not written again."""
        before = self._written.get(tensor.name) if tensor.role == "input" else None
        if before is None or not np.array_equal(before, values):
            self._session.write(tensor.name, values)
            self._written[tensor.name] = values

    def _sized(self, passes: Mapping[int, PassSignature], least: int) -> tuple[int, PassSignature]:
        """Of passes of rising batches, the one to take for `least` sequences, and its batch.

        That is the smallest that holds them, or one that stands in for it; the smallest is made
        next then, so that no step is larger than it has to be for long.
        """
        sizes = [size for size in passes if size >= least]
        smallest = passes[sizes[0]]
        if not self._is_ready(smallest, soon=True):
            for size in sizes[1:]:
                if stands_in(passes[size].key, smallest.key) and self._is_ready(passes[size]):
                    return size, passes[size]
        return sizes[0], smallest

    def _is_ready(self, signature: PassSignature, soon: bool = False) -> bool:
        if signature not in self._ready:
            if not self._graph(signature).ready(soon):
                return False
            self._ready.add(signature)
        return True

    def _graph(self, signature: PassSignature) -> Launchable:
        if signature not in self._graphs:
            self._graphs[signature] = self._session.graph(signature.graph, **signature.key)
        return self._graphs[signature]

    def _launch(self, signature: PassSignature) -> Launchable:
        graph = self._graph(signature)
        if self.tables.changed:
            self.tables.changed = False
            if self._signature.sizes.kv_tokens is not None:
                self._session.write(self._signature.tables.name, self.tables.values)
        graph.launch()
        return graph

    def _reserve(self, slots: Sequence[int], starts: Sequence[int], count: int) -> None:
        """Blocks for so many rows of each slot, where nobody has reserved them."""
        rows = self.tables.rows
        for slot, start in zip(slots, starts, strict=True):
            if start + count > rows[slot] and not self.tables.reserve(slot, start + count):
                raise UsageError(
                    f"slot {slot}: no block is left for row {start + count - 1}; capture with "
                    "larger --kv-tokens, or hold less"
                )

    def _check(self, length: int, slots: Sequence[int]) -> None:
        if length > self.max_len:
            raise UsageError(
                f"a sequence of {length} tokens exceeds the {self.max_len} of the bundle: "
                "capture with a larger --max-len"
            )
        if not 0 <= min(slots) <= max(slots) < self.slots:
            raise UsageError(f"slots {list(slots)}: the bundle has {self.slots}")
