"""The manifest's weight recipes, with a digest of everything that they read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from blake3 import blake3

from foundryc.home import without_home
from foundryc.weights.files import StoredTensor
from foundryc.weights.slices import WeightSlice, in_blocks, reached
from foundryrt.bundle.schema import WeightFile, WeightRecipe, Weights, WeightSource
from foundryrt.parallel import each


def build_weights(tensors: Iterable[tuple[int, Sequence[WeightSlice]]]) -> Weights:
    """The manifest's recipes for `(tensor index, its slices)`; reads every source to digest it.

    A tensor whose slices are of ranks has a recipe for each.
    """
    files: dict[Path, int] = {}
    sources: dict[StoredTensor, int] = {}
    recipes = []
    for index, slices in tensors:
        for rank in sorted({part.rank for part in slices}):
            own = [part for part in slices if part.rank == rank]
            own = own if rank < 0 else reached(own)
            parts = [block for part in own for block in in_blocks(part)]
            for part in parts:
                files.setdefault(part.stored.path, len(files))
                sources.setdefault(part.stored, len(sources))
            copies = tuple(part.copy(sources[part.stored]) for part in parts)
            recipes.append(WeightRecipe(tensor=index, copies=copies, rank=rank))
    digests: dict[StoredTensor, bytes] = {}

    def take(stored: StoredTensor) -> None:
        digests[stored] = blake3(stored.data()).digest()

    each(take, sources)
    return Weights(
        files=tuple(
            WeightFile(name=name, size=path.stat().st_size, hint=without_home(str(path)))
            for path, name in zip(files, distinct_names(list(files)), strict=True)
        ),
        sources=tuple(
            WeightSource(
                file=files[stored.path], name=stored.name, offset=stored.offset,
                length=stored.length, dtype=stored.dtype, rows=stored.rows,
                columns=stored.columns, blake3=digests[stored],
            )
            for stored in sources
        ),
        recipes=tuple(recipes),
    )  # fmt: skip


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """File names, with as many of their folders as it takes to tell the paths apart."""
    parts = [path.relative_to(path.anchor).parts for path in paths]
    depth = 1
    while len({part[-depth:] for part in parts}) < len(paths):
        depth += 1
    return ["/".join(part[-depth:]) for part in parts]
