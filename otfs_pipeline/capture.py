"""Offline side of the workload: records the receiver of one frame as graph `receive`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from otfs_pipeline.receiver import Receiver
from otfs_pipeline.settings import Settings
from otfs_pipeline.tables import tables

if TYPE_CHECKING:
    from foundryc.recorder import Recorder

__all__ = ["Settings", "record"]


def record(recorder: Recorder, settings: Settings) -> None:
    """Input `samples` [MN] complex64; the outputs are those of `Receiver`."""
    device = "cuda" if recorder.target == "cuda" else "cpu"
    constants = {
        name: recorder.register(name, torch.from_numpy(value).to(device), role="constant")
        for name, value in tables(settings).items()
    }
    samples = torch.zeros(settings.q, dtype=torch.complex64, device=device)
    samples = recorder.register("samples", samples, role="input")
    receiver = Receiver(settings, constants)
    with torch.no_grad(), recorder.graph("receive") as graph:
        for name, tensor in receiver(samples).items():
            graph.output(name, tensor)
