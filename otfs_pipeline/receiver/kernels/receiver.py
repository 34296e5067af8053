"""The receiver of a frame on the GPU: four kernels, without the host between them."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from foundryc.cuda.kernels import Kernel, Loader
from otfs_pipeline.receiver.kernels import program
from otfs_pipeline.receiver.kernels.geometry import Geometry
from otfs_pipeline.signature import received


class KernelReceiver:
    """As `eager.Receiver`, on the current CUDA device and stream, or as `load` has it."""

    def __init__(self, geometry: Geometry, load: Loader = Kernel.load) -> None:
        """Compiles the kernels; FoundryError where the device cannot load them."""
        # Makes the context that the kernels are loaded into.
        torch.cuda.synchronize()
        self._buffers = program.buffers(geometry)
        self._outputs = received(geometry.settings)
        images = program.images(geometry, geometry.platform.architecture)
        self._program = program.Program(geometry, images, load)

    def __call__(
        self, samples: torch.Tensor, into: Mapping[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """Samples complex64 of one frame, as in `signature.signature`, to its results.

        Those of `into` are written where they are.
        """
        known = {"samples": samples, **(into or {})}
        for name, buffer in self._buffers.items():
            if name not in known:
                dtype = getattr(torch, buffer.dtype)
                known[name] = samples.new_empty(buffer.shape, dtype=dtype)
        addresses = {name: tensor.data_ptr() for name, tensor in known.items()}
        stream = torch.cuda.current_stream().cuda_stream
        for name in program.KERNELS:
            self._program.launch(name, addresses, stream)
        return {name: known[name] for name in self._outputs}
