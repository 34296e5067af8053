"""Weights from the user's files to the arena, by the bundle's recipes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from foundryrt.bundle.schema import Manifest
from foundryrt.convert import AnyArray, fill
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

    def data(index: int) -> memoryview:
        source = weights.sources[index]
        found = files[source.file][source.offset : source.offset + source.length]
        if index not in checked:
            check_source(source, found, paths[source.file])
            checked.add(index)
            if progress:
                progress(source.length)
        return found

    for recipe in weights.recipes:
        fill(manifest, recipe, target(recipe.tensor), data)
