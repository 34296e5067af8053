"""How the bytes of weight sources reach the device: as they are, by rows, or assembled first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from foundryrt.bundle.schema import DTYPES, Manifest, Tensor, WeightCopy, WeightRecipe, WeightSource
from foundryrt.cuda.arena import Arena
from foundryrt.cuda.digest import ALIGNMENT, Range
from foundryrt.cuda.staging import CHUNK
from foundryrt.cuda.upload import Piece
from foundryrt.weights import recipes_of


class Run(NamedTuple):
    """Rows that lie `pitch` bytes apart in a source, and one behind the other on the device."""

    address: int
    begin: int
    """First byte in the source."""
    width: int
    """Bytes of a row."""
    rows: int = 1
    pitch: int = 0

    def within(self, start: int, end: int) -> Piece | None:
        """What of it lies in these bytes of the source, whole rows where there are several."""
        if self.rows == 1:
            first, last = max(self.begin, start), min(self.begin + self.width, end)
            place = self.address + first - self.begin
            return Piece(place, first - start, last - first) if first < last else None
        row, column = divmod(self.begin, self.pitch)
        first, last = max(row, start // self.pitch), min(row + self.rows, end // self.pitch)
        if first >= last:
            return None
        place = self.address + (first - row) * self.width
        at = first * self.pitch + column - start
        return Piece(place, at, self.width, last - first, self.pitch)


@dataclass
class Plan:
    """How each source's bytes reach the device; sources by their index."""

    assembled: list[WeightRecipe] = field(default_factory=list)
    """Tensors that are assembled on the host."""
    runs: dict[int, list[Run]] = field(default_factory=lambda: defaultdict(list))
    """Where the bytes of the other tensors' sources go as they are."""
    ranges: dict[int, Range] = field(default_factory=dict)
    """Where those sources arrive whose digests the device takes."""
    streamed: set[int] = field(default_factory=set)
    """Those whose digests the CPU takes."""

    @classmethod
    def of(
        cls, manifest: Manifest, arena: Arena, on_device: bool, rank: int, digested: Collection[int]
    ) -> Plan:
        """For the tensors of a rank that takes the digests of `digested`."""
        plan = cls()
        for recipe in recipes_of(manifest, rank):
            tensor = manifest.tensors[recipe.tensor]
            address = arena.address(tensor)
            found = ((copy.source, _run(manifest, address, tensor, copy)) for copy in recipe.copies)
            runs = [(source, run) for source, run in found if run]
            if len(runs) < len(recipe.copies):
                plan.assembled.append(recipe)
                continue
            for source, run in runs:
                plan.runs[source].append(run)
        for index, own in plan.runs.items():
            if index not in digested:
                continue
            arrives = _whole(manifest.weights.sources[index], own) if on_device else None
            if arrives:
                plan.ranges[index] = arrives
            else:
                plan.streamed.add(index)
        return plan


def piece_bytes(runs: list[Run]) -> int:
    """By how many bytes of a source its runs are cut: whole rows of it where they have several."""
    pitch = max(run.pitch for run in runs)
    return CHUNK // pitch * pitch if pitch else CHUNK


def _run(manifest: Manifest, address: int, tensor: Tensor, copy: WeightCopy) -> Run | None:
    """A copy as a run; None where its bytes change, or its rows lie apart in the tensor."""
    source = manifest.weights.sources[copy.source]
    columns = tensor.shape[-1] if tensor.shape else 1
    steps = copy.rows == 1 or copy.source_row_step == copy.row_step == 1
    if source.dtype != tensor.dtype or not steps or copy.columns != columns:
        return None
    size = DTYPES[tensor.dtype]
    width, pitch = columns * size, source.columns * size
    place = address + copy.row * width
    begin = copy.source_row * pitch + copy.source_column * size
    if copy.rows == 1 or width == pitch:
        return Run(place, begin, copy.rows * width)
    # Whole rows of the source go through a buffer.
    return Run(place, begin, width, copy.rows, pitch) if pitch <= CHUNK else None


def _whole(source: WeightSource, runs: list[Run]) -> Range | None:
    """Where a source arrives, whole and once, if the device can take its digest there."""
    if len(runs) != 1:
        return None
    (run,) = runs
    fits = (run.begin, run.rows, run.width) == (0, 1, source.length)
    fits = fits and run.address % ALIGNMENT == 0
    return (run.address, run.width) if source.blake3 and fits else None
