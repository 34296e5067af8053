"""The receiver of a frame on the GPU: four kernels, no decision of the host."""

from __future__ import annotations

import torch

from foundryrt.errors import FoundryError
from otfs_pipeline.receiver.kernels import program
from otfs_pipeline.receiver.kernels.geometry import Geometry

# What `receiver.Receiver` gives too; the other buffers are scratch.
RESULTS = ("symbols", "llr", "bits", "noise_variance", "mu", "variance", "taps")


class KernelReceiver:
    """As `receiver.Receiver`, on the current CUDA device and stream."""

    def __init__(self, geometry: Geometry) -> None:
        """Compiles the kernels; FoundryError where the device has not what they need."""
        # Makes the context that the kernels are loaded into.
        torch.cuda.synchronize()
        self._buffers = program.buffers(geometry)
        major, minor = torch.cuda.get_device_capability()
        # A driver tells of this only as an invalid value.
        shared = torch.cuda.get_device_properties().shared_memory_per_block_optin
        if major < 9 or shared < geometry.shared_bytes:
            raise FoundryError(
                f"the receiver's kernels need compute capability 9.0 and {geometry.shared_bytes} "
                f"bytes of shared memory a block; this GPU has {major}.{minor} and {shared}: use "
                "another one, a smaller grid or --target host"
            )
        images = program.images(geometry, f"sm_{major}{minor}")
        self._functions = program.load(geometry, images)

    def __call__(self, samples: torch.Tensor) -> dict[str, torch.Tensor]:
        """Samples [MN] complex64 of one frame to its results."""
        tensors = {
            name: torch.empty(shape, dtype=getattr(torch, dtype), device=samples.device)
            for name, (shape, dtype) in self._buffers.items()
        }
        stream = torch.cuda.current_stream().cuda_stream
        for name, (_, parameters) in program.KERNELS.items():
            known = {"samples": samples, **tensors}
            self._functions[name].launch(stream, tuple(known[p].data_ptr() for p in parameters))
        return {name: tensors[name] for name in RESULTS}
