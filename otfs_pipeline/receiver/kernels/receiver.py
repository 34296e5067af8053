"""The receiver of a frame on the GPU: its kernels, without the host between them."""

from __future__ import annotations

import torch

from foundryc.cuda.kernels import Kernel, Loader
from otfs_pipeline.receiver.kernels import program
from otfs_pipeline.receiver.kernels.geometry import Geometry
from otfs_pipeline.receiver.kernels.launch import Tensors, launch, made
from otfs_pipeline.signature import received


class KernelReceiver:
    """As `eager.Receiver`, on the current CUDA device and stream, or as `load` has it."""

    def __init__(self, geometry: Geometry, tables: Tensors, load: Loader = Kernel.load) -> None:
        """Compiles the kernels; `tables` are `program.constants`, on the device.

        FoundryError where the device cannot load them.
        """
        self._tables = tables
        self._buffers = program.buffers(geometry)
        self._outputs = received(geometry.settings)
        images = program.images(geometry, geometry.platform.architecture)
        self._program = program.Program(geometry, images, load)

    def __call__(
        self, samples: torch.Tensor, into: Tensors | None = None
    ) -> dict[str, torch.Tensor]:
        """Samples complex64 of one frame, as in `signature.signature`, to its results.

        Those of `into` are written where they are.
        """
        given = {**(into or {}), **self._tables, "samples": samples}
        tensors = made(self._buffers, given, samples)
        launch(self._program.kernels, self._program.launches, self._program.parameters, tensors)
        return {name: tensors[name] for name in self._outputs}
