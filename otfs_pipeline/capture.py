"""Offline side of the workload: records the receiver of one frame as graph `receive`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from otfs_pipeline.receiver.kernels.platforms import PLATFORMS
from otfs_pipeline.settings import Settings
from otfs_pipeline.signature import GRAPH, signature

if TYPE_CHECKING:
    import numpy as np
    import torch

    from foundryc.recorder import Recorder

    Receive = Callable[[torch.Tensor], dict[str, torch.Tensor]]

__all__ = ["ARCHITECTURES", "Settings", "record"]

ARCHITECTURES = tuple(PLATFORMS)


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
    with torch.no_grad():
        if device == "cuda":
            _record_kernels(recorder, settings, inputs[0])
            return
        receive = _host(recorder, settings)
        with recorder.graph(GRAPH) as graph:
            results = receive(*inputs)
            for name in frame.outputs:
                graph.output(name, results[name])


def _record_kernels(recorder: Recorder, settings: Settings, samples: torch.Tensor) -> None:
    from foundryc.cuda.kernels import architecture
    from otfs_pipeline.receiver.kernels.frame import KernelFrame, decoder_program
    from otfs_pipeline.receiver.kernels.platforms import platform

    program = decoder_program(settings)
    constants = _constants(recorder, program.constants() if program else {})
    receive = KernelFrame(settings, constants, platform(architecture()))
    with recorder.warm_up():
        receive(samples)
    with recorder.graph(GRAPH) as graph:
        results = receive(samples)
        for name in signature(settings).outputs:
            graph.output(name, results[name])
    for name in recorder.architectures:
        with recorder.build(graph, name) as build:
            KernelFrame(settings, constants, platform(name), build.load)(samples, results)


def _host(recorder: Recorder, settings: Settings) -> Receive:
    from otfs_pipeline.receiver.decoder import Decoder
    from otfs_pipeline.receiver.decoder import tables as decoder_tables
    from otfs_pipeline.receiver.native import NativeReceiver, tables
    from otfs_pipeline.receiver.quality import measure

    receive = NativeReceiver(settings, _constants(recorder, tables(settings)))
    block, decode = settings.transport_block, None
    if block is not None:
        constants = _constants(recorder, decoder_tables(block))
        decode = Decoder(block, settings.decoder_iterations, constants)

    def whole(samples: torch.Tensor) -> dict[str, torch.Tensor]:
        results = receive(samples)
        if decode:
            results |= decode(results["llr"].reshape(-1))
        return results | measure(samples, results["symbols"], settings)

    return whole


def _constants(recorder: Recorder, values: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    import torch

    device = "cuda" if recorder.target == "cuda" else "cpu"
    return {
        name: recorder.register(name, torch.from_numpy(value).to(device), role="constant")
        for name, value in values.items()
    }
