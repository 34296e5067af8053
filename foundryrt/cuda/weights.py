"""Weights from the user's files to the device, by the bundle's recipes.

Copies that move whole rows as they are go from the file into a pinned buffer, where their digest is
taken, and from there to the device; what must be decoded or re-ordered is put together on the host
first. Where the bundle brings a kernel for it, the device takes the digests of what arrived. The
caller must not use the weights before `fill_weights` has returned: copies begin before the digests
are compared.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from foundryrt.bundle.schema import DTYPES, Manifest, Tensor, WeightCopy, WeightRecipe, WeightSource
from foundryrt.cuda.digest import ALIGNMENT, Range
from foundryrt.cuda.upload import CHUNK, Uploader
from foundryrt.errors import FoundryError
from foundryrt.native import Piece
from foundryrt.parallel import each
from foundryrt.weights import (
    WeightsChanged,
    check_digest,
    find_file,
    hasher,
)

_Run = tuple[int, int, int]
"""Device address, first byte in the source, bytes."""


class _File:
    """A weight file, open for reading at any place from any thread."""

    def __init__(self, path: Path, undo: ExitStack) -> None:
        self.path = path
        try:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise FoundryError(f"weights: {path} cannot be read: {error.strerror}") from error
        undo.callback(os.close, self.descriptor)

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


Digests = Callable[[Sequence[Range]], list[bytes]]


def fill_weights(
    manifest: Manifest,
    uploader: Uploader,
    folder: Path | None,
    check: bool = True,
    on_device: Digests | None = None,
) -> None:
    """Queue every tensor that has a recipe; errors are those of foundryrt.host.weights.load.

    `check=False` takes the files' bytes as they are; their sizes are still compared. `on_device`
    takes BLAKE3 digests of what arrived; other digests, and those of sources that do not arrive
    as a whole or arrive twice, are taken here.
    """
    weights = manifest.weights
    paths = [find_file(file, folder) for file in weights.files]
    runs: dict[int, list[_Run]] = defaultdict(list)
    assembled: list[WeightRecipe] = []
    arrived: dict[int, Range] = {}
    pieces: list[Piece] = []
    for recipe in weights.recipes:
        tensor = manifest.tensors[recipe.tensor]
        if all(_whole_rows(manifest, tensor, copy) for copy in recipe.copies):
            for number, run in _runs(manifest, tensor, recipe):
                runs[number].append(run)
        else:
            assembled.append(recipe)
    with ExitStack() as undo:
        files = [_File(path, undo) for path in paths]
        jobs: list[Callable[[], None]] = []
        if assembled:
            from foundryrt.cuda.assemble import assemble  # needs numpy

            jobs = [
                partial(assemble, manifest, recipe, paths, uploader, check) for recipe in assembled
            ]
        # The longest first: a source's digest is taken by one thread.
        for index in sorted(runs, key=lambda i: -weights.sources[i].length):
            source = weights.sources[index]
            arrives = _whole(source, runs[index]) if check and on_device else None
            if arrives:
                arrived[index] = arrives
            file = files[source.file]
            if check and not arrives:
                jobs.append(partial(_stream, source, file, runs[index], uploader))
            else:
                pieces += _pieces(source, file, runs[index])
        each(lambda job: job(), jobs)
        if pieces:
            try:
                uploader.files(pieces)
            except FoundryError:
                for weight_file in weights.files:
                    find_file(weight_file, folder)  # names one that was cut off meanwhile
                raise
    if on_device and arrived:
        for index, digest in zip(arrived, on_device(list(arrived.values())), strict=True):
            source = weights.sources[index]
            check_digest(source, digest, paths[source.file])


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


def _runs(manifest: Manifest, tensor: Tensor, recipe: WeightRecipe) -> Iterator[tuple[int, _Run]]:
    address = manifest.regions[tensor.region].base + tensor.offset
    row = (tensor.shape[-1] if tensor.shape else 1) * DTYPES[tensor.dtype]
    for copy in recipe.copies:
        run = (address + copy.row * row, copy.source_row * row, copy.rows * row)
        yield copy.source, run


def _pieces(source: WeightSource, file: _File, runs: list[_Run]) -> Iterator[Piece]:
    for address, begin, length in runs:
        for start in range(0, length, CHUNK):
            size = min(CHUNK, length - start)
            yield Piece(address + start, source.offset + begin + start, size, file.descriptor)


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
