"""Weights from the user's files to the device, by the bundle's recipes.

Copies that move whole rows as they are go straight from the mapped file to the pinned buffers;
what must be decoded or re-ordered is put together on the host first. Digests are taken by the same
threads: the caller must not use the weights before `fill_weights` has returned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from pathlib import Path

import numpy as np

from foundryrt.bundle.schema import DTYPES, Manifest, Tensor, WeightCopy, WeightRecipe
from foundryrt.cuda.parallel import each
from foundryrt.cuda.upload import CHUNK, Uploader
from foundryrt.weights import check_source, copy_rows, decode, find_file, map_file, storage_dtype

_Job = Callable[[], None]


def fill_weights(
    manifest: Manifest,
    uploader: Uploader,
    folder: Path | None,
    check: bool = True,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Queue every tensor that has a recipe; errors are those of foundryrt.weights.load.

    `check=False` takes the files' bytes as they are; their sizes are still compared.
    """
    weights = manifest.weights
    paths = [find_file(file, folder) for file in weights.files]
    files = [map_file(path) for path in paths]
    data = [files[s.file][s.offset : s.offset + s.length] for s in weights.sources]

    def verify(index: int) -> None:
        source = weights.sources[index]
        check_source(source, data[index], paths[source.file])
        if progress:
            progress(source.length)

    # The longest digests first: none of them can be split.
    order = sorted(range(len(data)), key=lambda i: -weights.sources[i].length)
    jobs: list[_Job] = [partial(verify, i) for i in order] if check else []
    copies: list[_Job] = []
    for recipe in weights.recipes:
        copies += _copies(manifest, recipe, data, uploader)
    # Digests take longer than copies; each worker alternates, so that both go on all the time.
    mixed = [job for pair in zip(jobs, copies, strict=False) for job in pair]
    shorter = min(len(jobs), len(copies))
    each(lambda job: job(), [*mixed, *jobs[shorter:], *copies[shorter:]])


def _copies(
    manifest: Manifest, recipe: WeightRecipe, data: list[memoryview], uploader: Uploader
) -> Iterator[_Job]:
    tensor = manifest.tensors[recipe.tensor]
    address = manifest.regions[tensor.region].base + tensor.offset
    columns = tensor.shape[-1] if tensor.shape else 1
    row = columns * DTYPES[tensor.dtype]
    if not all(_whole_rows(manifest, tensor, copy, columns) for copy in recipe.copies):
        yield partial(_assemble, manifest, recipe, data, uploader, address)
        return
    for copy in recipe.copies:
        begin, length = copy.source_row * row, copy.rows * row
        for start in range(0, length, CHUNK):
            piece = data[copy.source][begin + start : begin + min(start + CHUNK, length)]
            yield partial(uploader.copy, address + copy.row * row + start, piece)


def _whole_rows(manifest: Manifest, tensor: Tensor, copy: WeightCopy, columns: int) -> bool:
    """Whether a copy is one run of bytes on both sides."""
    source = manifest.weights.sources[copy.source]
    steps = copy.rows == 1 or copy.source_row_step == copy.row_step == 1
    whole = copy.columns == columns == source.columns
    return steps and whole and source.dtype == tensor.dtype


def _assemble(
    manifest: Manifest,
    recipe: WeightRecipe,
    data: list[memoryview],
    uploader: Uploader,
    address: int,
) -> None:
    tensor = manifest.tensors[recipe.tensor]
    columns = tensor.shape[-1] if tensor.shape else 1
    target = np.empty((prod(tensor.shape[:-1]), columns), storage_dtype(tensor.dtype))
    decoded: dict[int, np.ndarray] = {}
    for copy in recipe.copies:
        source = manifest.weights.sources[copy.source]
        if copy.source not in decoded:
            decoded[copy.source] = decode(
                data[copy.source], source.dtype, source.rows, source.columns, tensor.dtype
            )
        copy_rows(copy, decoded[copy.source], target)
    uploader.copy(address, target.reshape(-1).view(np.uint8))
