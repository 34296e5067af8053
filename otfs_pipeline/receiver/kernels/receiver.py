"""The receiver of a frame on the GPU: four kernels, without the host between them."""

from __future__ import annotations

from typing import Any

import torch

from foundryrt.errors import FoundryError
from otfs_pipeline.receiver.kernels import program
from otfs_pipeline.receiver.kernels.geometry import Geometry
from otfs_pipeline.signature import received


class KernelReceiver:
    """As `eager.Receiver`, on the current CUDA device and stream."""

    def __init__(self, geometry: Geometry) -> None:
        """Compiles the kernels; FoundryError where the device does not have what they need."""
        # Makes the context that the kernels are loaded into.
        torch.cuda.synchronize()
        self._buffers = program.buffers(geometry)
        self._outputs = received(geometry.settings)
        major, minor = torch.cuda.get_device_capability()
        # torch's stubs do not have the property that is read here.
        properties: Any = torch.cuda.get_device_properties()
        # The driver would report a lack of shared memory only as an invalid value.
        shared = properties.shared_memory_per_block_optin
        if major < 9 or shared < geometry.shared_bytes:
            raise FoundryError(
                f"the receiver's kernels need compute capability 9.0 and {geometry.shared_bytes} "
                f"bytes of shared memory a block; this GPU has {major}.{minor} and {shared}: use "
                "another one, a smaller grid or --target host"
            )
        self._program = program.Program(geometry, program.images(geometry, f"sm_{major}{minor}"))

    def __call__(self, samples: torch.Tensor) -> dict[str, torch.Tensor]:
        """Samples complex64 of one frame, as in `signature.signature`, to its results."""
        tensors = {
            name: samples.new_empty(buffer.shape, dtype=getattr(torch, buffer.dtype))
            for name, buffer in self._buffers.items()
        }
        known = {"samples": samples, **tensors}
        addresses = {name: tensor.data_ptr() for name, tensor in known.items()}
        stream = torch.cuda.current_stream().cuda_stream
        for name in program.KERNELS:
            self._program.launch(name, addresses, stream)
        return {name: tensors[name] for name in self._outputs}
