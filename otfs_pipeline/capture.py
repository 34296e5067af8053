"""Offline side of the workload: records the receiver of one frame as graph `receive`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otfs_pipeline.dft import dft_tables
from otfs_pipeline.settings import Settings
from otfs_pipeline.tables import tables

if TYPE_CHECKING:
    from foundryc.recorder import Recorder
    from otfs_pipeline.transform import MatrixTransform

__all__ = ["Settings", "record"]


def record(recorder: Recorder, settings: Settings) -> None:
    """Input `samples` [MN] complex64; the outputs are those of `Receiver`."""
    # Imported late: a capture's options and its key do not need torch.
    import torch

    from otfs_pipeline.receiver import Receiver

    device = "cuda" if recorder.target == "cuda" else "cpu"
    constants = {
        name: recorder.register(name, torch.from_numpy(value).to(device), role="constant")
        for name, value in tables(settings).items()
    }
    samples = torch.zeros(settings.q, dtype=torch.complex64, device=device)
    samples = recorder.register("samples", samples, role="input")
    transform = _matrix_transform(recorder, settings) if device == "cuda" else torch.fft
    receiver = Receiver(settings, constants, transform)
    with torch.no_grad():
        if device == "cuda":
            with recorder.warm_up():
                receiver(samples)
        with recorder.graph("receive") as graph:
            for name, tensor in receiver(samples).items():
                graph.output(name, tensor)


def _matrix_transform(recorder: Recorder, settings: Settings) -> MatrixTransform:
    """cuFFT's kernels read a pointer that only the process that planned them knows."""
    import torch

    from otfs_pipeline.transform import MatrixTransform, lengths

    return MatrixTransform(
        {
            length: {
                name: recorder.register(
                    f"dft.{length}.{name}", torch.from_numpy(value), role="constant"
                )
                for name, value in dft_tables(length).items()
            }
            for length in lengths(settings)
        }
    )
