"""Offline side of the workload: records the receiver of one frame as graph `receive`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from otfs_pipeline.receiver.tables import tables
from otfs_pipeline.settings import Settings

if TYPE_CHECKING:
    import torch

    from foundryc.recorder import Recorder

__all__ = ["Settings", "record"]


def record(recorder: Recorder, settings: Settings) -> None:
    """Input `samples` [MN] complex64; the outputs are those of `Receiver`."""
    # Imported late: a capture's options and its key do not need torch.
    import torch

    device = "cuda" if recorder.target == "cuda" else "cpu"
    samples = torch.zeros(settings.q, dtype=torch.complex64, device=device)
    samples = recorder.register("samples", samples, role="input")
    receiver = _kernels(settings) if device == "cuda" else _torch(recorder, settings)
    with torch.no_grad():
        if device == "cuda":
            with recorder.warm_up():
                receiver(samples)
        with recorder.graph("receive") as graph:
            for name, tensor in receiver(samples).items():
                graph.output(name, tensor)


def _kernels(settings: Settings) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
    from otfs_pipeline.receiver.kernels.geometry import Geometry
    from otfs_pipeline.receiver.kernels.receiver import KernelReceiver

    return KernelReceiver(Geometry.of(settings))


def _torch(
    recorder: Recorder, settings: Settings
) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
    import torch

    from otfs_pipeline.receiver.eager import Receiver

    constants = {
        name: recorder.register(name, torch.from_numpy(value), role="constant")
        for name, value in tables(settings).items()
    }
    return Receiver(settings, constants)
