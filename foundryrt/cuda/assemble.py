"""A weight that must be decoded or re-ordered is assembled on the host before it is copied."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np

from foundryrt.bundle.schema import Manifest, WeightRecipe
from foundryrt.convert import decode_source, fill, storage_dtype
from foundryrt.cuda.upload import Uploader
from foundryrt.dequantized import decode_kept
from foundryrt.weights import WeightsChanged, check_source, map_file


def assemble(
    manifest: Manifest,
    recipe: WeightRecipe,
    paths: list[Path],
    address: int,
    uploader: Uploader,
    check: bool,
) -> None:
    """Queue a tensor, at a device address, whose bytes are not rows of its sources as they are."""
    tensor = manifest.tensors[recipe.tensor]
    columns = tensor.shape[-1] if tensor.shape else 1
    target = np.empty((prod(tensor.shape[:-1]), columns), storage_dtype(tensor.dtype))

    def data(index: int) -> memoryview:
        source = manifest.weights.sources[index]
        path = paths[source.file]
        found = map_file(path)[source.offset : source.offset + source.length]
        if len(found) != source.length:
            raise WeightsChanged(f"weights: {path} was cut off")
        if check:
            check_source(source, found, path)
        return found

    # What is kept goes by digests, which tell nothing of bytes that were not compared.
    fill(manifest, recipe, target, data, decode_kept if check else decode_source)
    uploader.copy(address, target.reshape(-1).view(np.uint8).data)
