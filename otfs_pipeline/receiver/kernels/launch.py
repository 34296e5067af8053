"""How the kernels of a frame are launched on torch's tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from foundryc.cuda.kernels import Launchable
from otfs_pipeline.receiver.kernels.program import Launch
from otfs_pipeline.signature import Tensor

Tensors = Mapping[str, torch.Tensor]


def made(
    buffers: Mapping[str, Tensor], known: Tensors, like: torch.Tensor
) -> dict[str, torch.Tensor]:
    """`known`, and those of `buffers` that are not among them, on the device of `like`."""
    tensors = dict(known)
    for name, buffer in buffers.items():
        if name not in tensors:
            tensors[name] = like.new_empty(buffer.shape, dtype=getattr(torch, buffer.dtype))
    return tensors


def launch(
    kernels: Mapping[str, Launchable],
    launches: Mapping[str, Launch],
    parameters: Mapping[str, Sequence[str]],
    tensors: Tensors,
) -> None:
    """Queue the kernels on torch's current stream, one after another; all are by name."""
    some = next(iter(tensors.values()))
    stream = torch.cuda.current_stream().cuda_stream if some.is_cuda else 0
    for name, (blocks, threads, shared) in launches.items():
        arguments = [tensors[parameter].data_ptr() for parameter in parameters[name]]
        kernels[name].launch((blocks, 1, 1), (threads, 1, 1), arguments, stream, shared)
