"""Offline side of the workload: records the receiver of one frame as graph `receive`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from otfs_pipeline.settings import Settings
from otfs_pipeline.signature import GRAPH, signature

if TYPE_CHECKING:
    import torch

    from foundryc.recorder import Recorder

    Receive = Callable[[torch.Tensor], dict[str, torch.Tensor]]

__all__ = ["Settings", "record"]


def record(recorder: Recorder, settings: Settings) -> None:
    """Records a graph with the inputs and outputs of `signature`."""
    # Imported late: a capture's options and its key do not need torch.
    import torch

    device = "cuda" if recorder.target == "cuda" else "cpu"
    frame = signature(settings)
    inputs = [
        recorder.register(
            name,
            torch.zeros(given.shape, dtype=getattr(torch, given.dtype), device=device),
            role="input",
        )
        for name, given in frame.inputs.items()
    ]
    receive = _kernels(settings) if device == "cuda" else _native(settings)
    with torch.no_grad():
        if device == "cuda":
            with recorder.warm_up():
                receive(*inputs)
        with recorder.graph(GRAPH) as graph:
            results = receive(*inputs)
            for name in frame.outputs:
                graph.output(name, results[name])


def _kernels(settings: Settings) -> Receive:
    from otfs_pipeline.receiver.kernels.geometry import Geometry
    from otfs_pipeline.receiver.kernels.receiver import KernelReceiver

    return KernelReceiver(Geometry.of(settings))


def _native(settings: Settings) -> Receive:
    from otfs_pipeline.receiver.native import NativeReceiver

    return NativeReceiver(settings)
