"""Offline side of the workload: records the receiver of one frame as graph `receive`.

For cuda also as `receive_waveform`, with the front end before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from otfs_pipeline.front.signature import WAVEFORM_GRAPH, waveform_signature
from otfs_pipeline.receiver.kernels.platforms import PLATFORMS
from otfs_pipeline.settings import Settings
from otfs_pipeline.signature import GRAPH, Tensor, signature

if TYPE_CHECKING:
    import numpy as np
    import torch

    from foundryc.cuda.kernels import Loader
    from foundryc.recorder import Recorder

    Receive = Callable[..., dict[str, torch.Tensor]]

__all__ = ["ARCHITECTURES", "Settings", "record"]

ARCHITECTURES = tuple(PLATFORMS)


def record(recorder: Recorder, settings: Settings) -> None:
    """Records graphs with the inputs and outputs of `signature` and `waveform_signature`."""
    # Imported late: a capture's options and its key do not need torch.
    import torch

    with torch.no_grad():
        if recorder.target == "cuda":
            _record_kernels(recorder, settings)
            return
        frame = signature(settings)
        inputs = [_zeros(recorder, name, like, "input") for name, like in frame.inputs.items()]
        receive = _host(recorder, settings)
        with recorder.graph(GRAPH) as graph:
            results = receive(*inputs)
            for name in frame.outputs:
                graph.output(name, results[name])


def _record_kernels(recorder: Recorder, settings: Settings) -> None:
    from foundryc.cuda.kernels import architecture
    from otfs_pipeline.receiver.kernels import front
    from otfs_pipeline.receiver.kernels.frame import KernelFrame, KernelWaveform, tables
    from otfs_pipeline.receiver.kernels.platforms import platform

    constants = _constants(recorder, tables(settings))
    graphs = {GRAPH: signature(settings), WAVEFORM_GRAPH: waveform_signature(settings)}
    of_front = _constants(recorder, front.constants(settings))
    of_front["tracked"] = _zeros(recorder, "tracked", front.tracked(settings), "state")
    inputs = {
        graph: [_zeros(recorder, name, tensor, "input") for name, tensor in like.inputs.items()]
        for graph, like in graphs.items()
    }

    def made(name: str, *load: Loader) -> dict[str, Receive]:
        target = platform(name)
        receive = KernelFrame(settings, constants, target, *load)
        whole = KernelWaveform(settings, of_front, receive, target, *load)
        return {GRAPH: receive, WAVEFORM_GRAPH: whole}

    own = made(architecture())
    with recorder.warm_up():
        for name in graphs:
            own[name](*inputs[name])
    for name, like in graphs.items():
        with recorder.graph(name) as graph:
            results = own[name](*inputs[name])
            for output in like.outputs:
                graph.output(output, results[output])
        for other in recorder.architectures:
            with recorder.build(graph, other) as build:
                made(other, build.load)[name](*inputs[name], results)


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


def _zeros(recorder: Recorder, name: str, like: Tensor, role: str) -> torch.Tensor:
    import torch

    device = "cuda" if recorder.target == "cuda" else "cpu"
    zeros = torch.zeros(like.shape, dtype=getattr(torch, like.dtype), device=device)
    return recorder.register(name, zeros, role=role)


def _constants(recorder: Recorder, values: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    import torch

    device = "cuda" if recorder.target == "cuda" else "cpu"
    return {
        name: recorder.register(name, torch.from_numpy(value).to(device), role="constant")
        for name, value in values.items()
    }
