"""Weights from the user's files to the arena, by the bundle's recipes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path

from foundryrt.bundle.schema import Manifest
from foundryrt.convert import AnyArray, fill
from foundryrt.errors import UsageError
from foundryrt.stored import Sources
from foundryrt.weight_files import FileState, OpenFile, check_states
from foundryrt.weights import find_file, recipes_of


def load(
    manifest: Manifest,
    target: Callable[[int], AnyArray],
    folder: Path | None = None,
    check: bool = True,
    progress: Callable[[int], None] | None = None,
    rank: int = 0,
    digested: Collection[int] | None = None,
    states: Sequence[FileState] | None = None,
) -> None:
    """Fill every tensor that has a recipe, where there are several by that of `rank`.

    `target(i)` gives tensor i as a writable [rows, columns] array of its storage dtype. Each
    source's digest is compared before a byte of it is used, unless `check` is False; `progress`
    gets the bytes read. Where ranks share out the digests, `digested` are the sources of this one,
    and `states` what rank 0 has seen of the files. WeightsMissing and WeightsChanged name the file,
    FoundryError a conversion that is not possible.
    """
    paths = [find_file(file, folder) for file in manifest.weights.files]
    if digested is None:
        digested = range(len(manifest.weights.sources))
    elif check and states is None:
        raise UsageError("weights: ranks that share out the digests need the files' states")
    with ExitStack() as stack:
        files = []
        for path in paths:
            files.append(OpenFile(path))
            stack.callback(files[-1].close)
        check_states(files, states)
        sources = Sources(manifest, files, digested, check, progress)
        for recipe in recipes_of(manifest, rank):
            fill(manifest, recipe, target(recipe.tensor), sources.values)
        check_states(files, states)
