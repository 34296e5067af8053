"""Weights from the user's files to the arena, by the bundle's recipes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from foundryrt.bundle.schema import Manifest
from foundryrt.convert import AnyArray, decode_source, fill
from foundryrt.dequantized import decode_kept
from foundryrt.weights import WeightsChanged, check_source, find_file, map_file, recipes_of


def load(
    manifest: Manifest,
    target: Callable[[int], AnyArray],
    folder: Path | None = None,
    check: bool = True,
    progress: Callable[[int], None] | None = None,
    rank: int = 0,
) -> None:
    """Fill every tensor that has a recipe, where there are several by that of `rank`.

    `target(i)` gives tensor i as a writable [rows, columns] array of its storage dtype. Each
    source's digest is compared before a byte of it is used, unless `check` is False; `progress`
    gets the bytes read. WeightsMissing and WeightsChanged name the file, FoundryError a conversion
    that is not possible.
    """
    weights = manifest.weights
    paths = [find_file(file, folder) for file in weights.files]
    files = [map_file(path) for path in paths]
    taken: set[int] = set()

    def data(index: int) -> memoryview:
        source = weights.sources[index]
        found = files[source.file][source.offset : source.offset + source.length]
        if index not in taken:
            if len(found) != source.length:
                raise WeightsChanged(f"weights: {paths[source.file]} was cut off")
            if check:
                check_source(source, found, paths[source.file])
            taken.add(index)
            if progress:
                progress(source.length)
        return found

    # What is kept goes by digests, which tell nothing of bytes that were not compared.
    decoder = decode_kept if check else decode_source
    for recipe in recipes_of(manifest, rank):
        fill(manifest, recipe, target(recipe.tensor), data, decoder)
