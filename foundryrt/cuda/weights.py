"""Weights from the user's files to the device, by the bundle's recipes.

Copies that move whole rows as they are go from the file into a staging buffer, where their digest
is computed, and from there to the device; tensors that must be decoded or re-ordered are assembled
on the host first. Where the bundle brings a kernel for it, the device computes the digests of the
bytes that arrived, and native threads read. The weights must not be used before `WeightLoader.load`
has returned: copies begin before the digests are compared.
"""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from foundryrt.bundle.schema import DTYPES, Manifest, Tensor, WeightCopy, WeightRecipe, WeightSource
from foundryrt.cuda.arena import Arena
from foundryrt.cuda.digest import ALIGNMENT, Digester, Range
from foundryrt.cuda.upload import CHUNK, Uploader
from foundryrt.errors import FoundryError
from foundryrt.native import FileRange
from foundryrt.parallel import each
from foundryrt.undo import Undo
from foundryrt.weights import WeightsChanged, check_digest, find_file, hasher, recipes_of

_Run = tuple[int, int, int]
"""Device address, first byte in the source, bytes."""


class _File:
    """A weight file, open for reading at any offset from any thread."""

    def __init__(self, path: Path, undo: Undo) -> None:
        self.path = path
        try:
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise FoundryError(f"weights: {path} cannot be read: {error.strerror}") from error
        undo.push(self._file.close)
        self.descriptor = self._file.fileno()

    def read(self, offset: int, into: memoryview) -> None:
        """Fill `into` with the file's bytes from `offset` on."""
        while into:
            try:
                count = os.preadv(self.descriptor, [into], offset)
            except OSError as error:
                raise FoundryError(
                    f"weights: {self.path} cannot be read: {error.strerror}"
                ) from error
            if count == 0:
                raise WeightsChanged(f"weights: {self.path} ends at byte {offset}; it was cut off")
            offset, into = offset + count, into[count:]


@dataclass
class _Plan:
    """How each source's bytes reach the device; sources by their index."""

    assembled: list[WeightRecipe] = field(default_factory=list)
    """Tensors that are assembled on the host."""
    runs: dict[int, list[_Run]] = field(default_factory=lambda: defaultdict(list))
    """Where the bytes of the other tensors' sources go as they are."""
    ranges: dict[int, Range] = field(default_factory=dict)
    """Where those sources arrive whose digests the device takes."""

    @classmethod
    def of(cls, manifest: Manifest, arena: Arena, on_device: bool, rank: int) -> _Plan:
        plan = cls()
        for recipe in recipes_of(manifest, rank):
            tensor = manifest.tensors[recipe.tensor]
            if all(_whole_rows(manifest, tensor, copy) for copy in recipe.copies):
                for index, run in _runs(arena.address(tensor), tensor, recipe):
                    plan.runs[index].append(run)
            else:
                plan.assembled.append(recipe)
        for index, runs in plan.runs.items():
            arrives = _whole(manifest.weights.sources[index], runs) if on_device else None
            if arrives:
                plan.ranges[index] = arrives
        return plan


class WeightLoader:
    """Fills every tensor of a bundle that has a recipe, where there are several by that of `rank`.

    `digester` makes what takes BLAKE3 digests of device memory. The CPU takes those of other kinds
    and of sources that do not arrive as a whole or arrive twice; without `digester` it takes all.
    What needs no weight file is worked out once, by `prepare` or the first load. `undo` ends a
    load that was interrupted; it must be a part of its own.
    """

    def __init__(
        self,
        manifest: Manifest,
        arena: Arena,
        uploader: Uploader,
        undo: Undo,
        digester: Callable[[Sequence[Range]], Digester] | None = None,
        rank: int = 0,
    ) -> None:
        self._manifest = manifest
        self._arena = arena
        self._uploader = uploader
        self._undo = undo
        self._make_digester = digester
        self._rank = rank
        self._digester: Digester | None = None
        self._plan: _Plan | None = None
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Do the part of a load that needs no files; after a FoundryError a load tries again."""
        self._uploader.reserve()
        with self._lock:
            self._prepare(check=True)

    def _prepare(self, check: bool) -> _Plan:
        if self._plan is None:
            on_device = self._make_digester is not None
            self._plan = _Plan.of(self._manifest, self._arena, on_device, self._rank)
        if check and self._plan.ranges and self._make_digester and self._digester is None:
            self._digester = self._make_digester(list(self._plan.ranges.values()))
        return self._plan

    def load(self, folder: Path | None, check: bool = True) -> None:
        """Queue every tensor's bytes; errors are those of foundryrt.host.weights.load.

        `check=False` takes the files' bytes as they are; their sizes are still compared.
        """
        weights = self._manifest.weights
        paths = [find_file(file, folder) for file in weights.files]
        with self._lock:
            plan = self._prepare(check)
            self._undo.close()  # an interrupt may have left something
            with self._undo:
                files = [_File(path, self._undo) for path in paths]
                each(lambda job: job(), self._jobs(plan, files, check), self._undo)
                ranges = self._ranges(plan, files, check)
                if ranges:
                    try:
                        self._uploader.files(ranges)
                    except FoundryError:
                        for weight_file in weights.files:
                            find_file(
                                weight_file, folder
                            )  # names a file that was truncated meanwhile
                        raise
            if check and self._digester:
                for index, digest in zip(plan.ranges, self._digester.take(), strict=True):
                    source = weights.sources[index]
                    check_digest(source, digest, paths[source.file])

    def _jobs(self, plan: _Plan, files: list[_File], check: bool) -> list[Callable[[], None]]:
        """What Python threads do: assemble tensors, and take digests."""
        jobs: list[Callable[[], None]] = []
        if plan.assembled:
            from foundryrt.cuda.assemble import assemble  # needs numpy

            paths = [file.path for file in files]
            for recipe in plan.assembled:
                address = self._arena.address(self._manifest.tensors[recipe.tensor])
                jobs.append(
                    partial(assemble, self._manifest, recipe, paths, address, self._uploader, check)
                )
        if check:
            sources = self._manifest.weights.sources
            # The longest first: a source's digest is taken by one thread.
            for index in sorted(plan.runs.keys() - plan.ranges, key=lambda i: -sources[i].length):
                source, runs = sources[index], plan.runs[index]
                jobs.append(partial(_stream, source, files[source.file], runs, self._uploader))
        return jobs

    def _ranges(self, plan: _Plan, files: list[_File], check: bool) -> list[FileRange]:
        """What native threads read: all sources whose digests are not computed here."""
        ranges = []
        for index in plan.ranges if check else plan.runs:
            source = self._manifest.weights.sources[index]
            file, offset = files[source.file].descriptor, source.offset
            for address, begin, length in plan.runs[index]:
                ranges.append(FileRange(address, offset + begin, length, file))
        return ranges


def _whole_rows(manifest: Manifest, tensor: Tensor, copy: WeightCopy) -> bool:
    """Whether a copy is one run of bytes on both sides."""
    source = manifest.weights.sources[copy.source]
    columns = tensor.shape[-1] if tensor.shape else 1
    steps = copy.rows == 1 or copy.source_row_step == copy.row_step == 1
    return steps and copy.columns == columns == source.columns and source.dtype == tensor.dtype


def _whole(source: WeightSource, runs: list[_Run]) -> Range | None:
    """Where a source arrives, whole and once, if the device can take its digest there."""
    if len(runs) != 1:
        return None
    address, begin, length = runs[0]
    fits = begin == 0 and length == source.length and address % ALIGNMENT == 0
    return (address, length) if source.blake3 and fits else None


def _runs(address: int, tensor: Tensor, recipe: WeightRecipe) -> Iterator[tuple[int, _Run]]:
    row = (tensor.shape[-1] if tensor.shape else 1) * DTYPES[tensor.dtype]
    for copy in recipe.copies:
        run = (address + copy.row * row, copy.source_row * row, copy.rows * row)
        yield copy.source, run


def _stream(source: WeightSource, file: _File, runs: list[_Run], uploader: Uploader) -> None:
    """Copy a source and take its digest here, while it is in the processor's cache."""
    digest = hasher(source)
    for start in range(0, source.length, CHUNK):
        end = min(start + CHUNK, source.length)

        def fill(buffer: memoryview, start: int = start) -> None:
            file.read(source.offset + start, buffer)
            digest.update(buffer)

        copies = []
        for address, begin, length in runs:
            first, last = max(begin, start), min(begin + length, end)
            if first < last:
                copies.append((address + first - begin, first - start, last - first))
        uploader.through(end - start, fill, copies)
    check_digest(source, digest.digest(), file.path)
