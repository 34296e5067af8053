"""Weights from the user's files to the device, by the bundle's recipes."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np

from foundryrt.bundle.schema import Manifest
from foundryrt.cuda.upload import Uploader
from foundryrt.weights import AnyArray, load, storage_dtype


class _Staging:
    """One tensor at a time on the host: it is sent when the next one is asked for."""

    def __init__(self, manifest: Manifest, uploader: Uploader) -> None:
        self._manifest = manifest
        self._uploader = uploader
        self._index = -1
        self._array: AnyArray = np.empty((0, 0))

    def target(self, index: int) -> AnyArray:
        """Tensor `index` as [rows, columns]."""
        if index != self._index:
            self.send()
            tensor = self._manifest.tensors[index]
            columns = tensor.shape[-1] if tensor.shape else 1
            rows = prod(tensor.shape[:-1])
            self._array = np.empty((rows, columns), storage_dtype(tensor.dtype))
            self._index = index
        return self._array

    def send(self) -> None:
        """Queue the current tensor for the device."""
        if self._index >= 0:
            tensor = self._manifest.tensors[self._index]
            address = self._manifest.regions[tensor.region].base + tensor.offset
            self._uploader.copy(address, self._array.reshape(-1).view(np.uint8))


def fill_weights(
    manifest: Manifest,
    uploader: Uploader,
    folder: Path | None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Queue every tensor that has a recipe; errors are those of foundryrt.weights.load."""
    staging = _Staging(manifest, uploader)
    load(manifest, staging.target, folder, progress)
    staging.send()
