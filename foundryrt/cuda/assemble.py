"""A weight that must be decoded or re-ordered is assembled on the host before it is copied."""

from __future__ import annotations

from math import prod

import numpy as np

from foundryrt.bundle.schema import Manifest, WeightRecipe
from foundryrt.convert import fill, storage_dtype
from foundryrt.cuda.upload import Uploader
from foundryrt.stored import Sources


def assemble(
    manifest: Manifest, recipe: WeightRecipe, sources: Sources, address: int, uploader: Uploader
) -> None:
    """Queue a tensor, at a device address, whose bytes are not rows of its sources as they are."""
    tensor = manifest.tensors[recipe.tensor]
    columns = tensor.shape[-1] if tensor.shape else 1
    target = np.empty((prod(tensor.shape[:-1]), columns), storage_dtype(tensor.dtype))
    fill(manifest, recipe, target, sources.values)
    uploader.copy(address, target.reshape(-1).view(np.uint8).data)
