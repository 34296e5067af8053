"""The rules for weights: files, sources, and recipes that fill every element, for every rank."""

from __future__ import annotations

from math import prod

from foundryrt.bundle.errors import WeightOutOfBounds
from foundryrt.bundle.layout import printable
from foundryrt.bundle.rules import refer, require, unique
from foundryrt.bundle.schema import DTYPES, Manifest, Tensor, WeightCopy
from foundryrt.printable import quoted


def check_weights(manifest: Manifest) -> None:
    """Raise a BundleError that names the first rule that weights break."""
    weights = manifest.weights
    if weights.digest_kernel != -1:
        refer("weights", weights.digest_kernel, manifest.kernels)
    for file in weights.files:
        inside = all(part not in ("", ".", "..") for part in file.name.split("/"))
        require(
            inside and "\\" not in file.name, f"weight file {quoted(file.name)} is no such name"
        )
        require(file.size >= 0, f"weight file {quoted(file.name)} has {file.size} bytes")
    unique("weight file", (file.name for file in weights.files))
    for source in weights.sources:
        where = f"weight source {quoted(source.name)}"
        refer(where, source.file, weights.files)
        digests = sorted((len(source.sha256), len(source.blake3)))
        require(digests == [0, 32], f"{where}: its digest has not 32 bytes")
        require(source.rows > 0 and source.columns > 0, f"{where} is empty")
        require(printable(source.dtype), f"{where}: dtype")
        if source.dtype in DTYPES:
            length = source.rows * source.columns * DTYPES[source.dtype]
            require(source.length == length, f"{where}: {source.length} bytes, not {length}")
        if (
            not 0
            <= source.offset
            <= source.offset + source.length
            <= weights.files[source.file].size
        ):
            raise WeightOutOfBounds(f"manifest: {where} reaches beyond its file")
    for recipe in weights.recipes:
        refer("a weight recipe", recipe.tensor, manifest.tensors)
        _check_recipe(manifest, manifest.tensors[recipe.tensor], recipe.copies)
    unique("weight recipe", ((recipe.tensor, recipe.rank) for recipe in weights.recipes))
    _check_recipe_ranks(manifest)


def _check_recipe_ranks(manifest: Manifest) -> None:
    """A tensor has one recipe for every rank, or one for each."""
    world = manifest.ranks.world if manifest.ranks else 0
    found: dict[int, set[int]] = {}
    for recipe in manifest.weights.recipes:
        found.setdefault(recipe.tensor, set()).add(recipe.rank)
    for tensor, ranks in found.items():
        require(
            ranks == {-1} or ranks == set(range(world)),
            f"weight {quoted(manifest.tensors[tensor].name)} has recipes neither for all of {world}"
            " ranks nor for each",
        )


def _check_recipe(manifest: Manifest, tensor: Tensor, copies: tuple[WeightCopy, ...]) -> None:
    where = f"weight {quoted(tensor.name)}"
    columns = tensor.shape[-1] if tensor.shape else 1
    rows = prod(tensor.shape[:-1])
    dense = tuple(prod(tensor.shape[i + 1 :]) for i in range(len(tensor.shape)))
    require(tensor.role == "weight" and tensor.strides == dense, f"{where} is not a dense weight")
    for copy in copies:
        refer(where, copy.source, manifest.weights.sources)
        source = manifest.weights.sources[copy.source]
        steps = (copy.source_row_step, copy.row_step, copy.rows, copy.columns)
        starts = (copy.source_row, copy.source_column, copy.row, copy.column)
        require(min(steps) > 0 and min(starts) >= 0, f"{where}: a copy's steps or starts")
        if (
            copy.source_row + (copy.rows - 1) * copy.source_row_step >= source.rows
            or copy.source_column + copy.columns > source.columns
        ):
            raise WeightOutOfBounds(f"manifest: {where} reads beyond {quoted(source.name)}")
        if (
            copy.row + (copy.rows - 1) * copy.row_step >= rows
            or copy.column + copy.columns > columns
        ):
            raise WeightOutOfBounds(f"manifest: {where} is written beyond its end")
    covered = sum(copy.rows * copy.columns for copy in copies)
    if covered != rows * columns:
        raise WeightOutOfBounds(
            f"manifest: the copies into {where} fill {covered} of {rows * columns} elements"
        )
