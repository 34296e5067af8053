"""Offline side of the workload: records the receiver of one frame as graph `receive`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from otfs_pipeline.settings import Settings
from otfs_pipeline.signature import GRAPH, signature

if TYPE_CHECKING:
    import numpy as np
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
    receive = _kernels(settings) if device == "cuda" else _native(recorder, settings)
    decode, measure = _decoder(recorder, settings), _quality(recorder, settings)

    def whole(samples: torch.Tensor) -> dict[str, torch.Tensor]:
        results = receive(samples)
        if decode:
            results |= decode(results["llr"].reshape(-1))
        return results | measure(samples, results["symbols"])

    with torch.no_grad():
        if device == "cuda":
            with recorder.warm_up():
                whole(*inputs)
        with recorder.graph(GRAPH) as graph:
            results = whole(*inputs)
            for name in frame.outputs:
                graph.output(name, results[name])


def _kernels(settings: Settings) -> Receive:
    from foundryc.cuda.kernels import architecture
    from otfs_pipeline.receiver.kernels.geometry import Geometry
    from otfs_pipeline.receiver.kernels.platforms import platform
    from otfs_pipeline.receiver.kernels.receiver import KernelReceiver

    return KernelReceiver(Geometry.of(settings, platform(architecture())))


def _native(recorder: Recorder, settings: Settings) -> Receive:
    from otfs_pipeline.receiver.native import NativeReceiver, tables

    return NativeReceiver(settings, _constants(recorder, tables(settings)))


def _decoder(recorder: Recorder, settings: Settings) -> Receive | None:
    block = settings.transport_block
    if block is None:
        return None
    if recorder.target == "cuda":
        from otfs_pipeline.receiver.kernels.decoder import KernelDecoder, Program

        program = Program(block, settings.decoder_iterations)
        return KernelDecoder(program, _constants(recorder, program.constants()))
    from otfs_pipeline.receiver.decoder import Decoder, tables

    return Decoder(block, settings.decoder_iterations, _constants(recorder, tables(block)))


def _quality(
    recorder: Recorder, settings: Settings
) -> Callable[[torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]:
    if recorder.target == "cuda":
        from otfs_pipeline.receiver.kernels.quality import KernelQuality

        return KernelQuality(settings)
    from otfs_pipeline.receiver.quality import measure

    return lambda samples, symbols: measure(samples, symbols, settings)


def _constants(recorder: Recorder, values: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    import torch

    device = "cuda" if recorder.target == "cuda" else "cpu"
    return {
        name: recorder.register(name, torch.from_numpy(value).to(device), role="constant")
        for name, value in values.items()
    }
