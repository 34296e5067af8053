"""Weights from the user's files to the arena, by the bundle's recipes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from foundryrt.bundle.schema import Manifest
from foundryrt.convert import AnyArray, copy_rows, decode
from foundryrt.weights import check_source, find_file, map_file


def load(
    manifest: Manifest,
    target: Callable[[int], AnyArray],
    folder: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Fill every tensor that has a recipe.

    `target(i)` gives tensor i as a writable [rows, columns] array of its storage dtype. Each
    source's digest is checked before a byte of it is used; `progress` gets the bytes read.
    """
    weights = manifest.weights
    paths = [find_file(file, folder) for file in weights.files]
    files = [map_file(path) for path in paths]
    checked: set[int] = set()
    for recipe in weights.recipes:
        tensor = manifest.tensors[recipe.tensor]
        decoded: dict[int, AnyArray] = {}
        for copy in recipe.copies:
            source = weights.sources[copy.source]
            if copy.source not in decoded:
                data = files[source.file][source.offset : source.offset + source.length]
                if copy.source not in checked:
                    check_source(source, data, paths[source.file])
                    checked.add(copy.source)
                    if progress:
                        progress(source.length)
                decoded[copy.source] = decode(
                    data, source.dtype, source.rows, source.columns, tensor.dtype
                )
            copy_rows(copy, decoded[copy.source], target(recipe.tensor))
