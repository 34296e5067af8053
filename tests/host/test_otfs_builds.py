"""The receiver's graph as it is noted for GPUs that are not here."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from foundryc.cache.request import Request
from foundryc.cuda.build import Build, OnlyMemory
from foundryc.recorder import Recorder
from foundryrt.errors import UsageError
from otfs_pipeline import capture
from otfs_pipeline.receiver.kernels import decoder, front, program, quality
from otfs_pipeline.receiver.kernels.frame import KernelFrame, decoder_program
from otfs_pipeline.receiver.kernels.geometry import Geometry
from otfs_pipeline.receiver.kernels.platforms import HOPPER, PLATFORMS
from otfs_pipeline.settings import Settings
from otfs_pipeline.signature import signature

LINK = Settings(grid="64x32", code_rate=0.5, iterations=4)


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_every_launch_is_noted_with_its_own_memory(architecture: str) -> None:
    target, coded = PLATFORMS[architecture], decoder_program(LINK)
    assert coded is not None
    constants = {name: torch.from_numpy(v) for name, v in coded.constants().items()}
    frame = signature(LINK)
    given = {
        name: torch.zeros(buffer.shape, dtype=getattr(torch, buffer.dtype))
        for name, buffer in (frame.inputs | frame.outputs).items()
    }
    build, names = Build(architecture), list[str]()
    with OnlyMemory():
        results = KernelFrame(LINK, constants, target, build.load)(given["samples"], given)
    assert all(results[name] is given[name] for name in frame.outputs)

    table = build.table("receive", {}, lambda kernel: names.append(kernel.name) or len(names) - 1)
    launches = {
        **program.launches(Geometry.of(LINK, target)),
        **coded.launches,
        **quality.launches(LINK),
    }
    assert names == list(launches)
    assert list(zip(table.columns["edge_from"], table.columns["edge_to"], strict=True)) == [
        (node, node + 1) for node in range(len(names) - 1)
    ]
    parameters = {name: source.parameters for name, source in program.KERNELS.items()}
    parameters |= decoder.PARAMETERS | quality.PARAMETERS
    where = {name: tensor.data_ptr() for name, tensor in (given | constants).items()}
    starts = table.columns["parameter_start"]
    for node, name in enumerate(names):
        words = table.words[starts[node] : starts[node + 1]]
        launch = launches[name]
        head = struct.unpack("<8I", words[:4].astype("<u8").tobytes())
        assert head == (launch.blocks, 1, 1, launch.threads, 1, 1, launch.shared, 0)
        assert len(words) == 4 + len(parameters[name])
        for parameter, word in zip(parameters[name], words[4:].tolist(), strict=True):
            assert where.setdefault(parameter, word) == word, (name, parameter)


class FakeRecorder:
    """What `record` asks for on cuda, with the GPU's work left out."""

    target = "cuda"
    architectures = ("sm_80", "sm_120")

    def __init__(self) -> None:
        self.outputs: dict[str, dict[str, torch.Tensor]] = {}
        self.builds: dict[tuple[str, str], Build] = {}

    def register(self, name: str, tensor: torch.Tensor, role: str) -> torch.Tensor:
        return tensor

    @contextmanager
    def warm_up(self) -> Iterator[None]:
        yield

    @contextmanager
    def graph(self, name: str) -> Iterator[Any]:
        self.outputs[name] = {}
        yield SimpleNamespace(output=self.outputs[name].__setitem__, name=name)

    @contextmanager
    def build(self, graph: Any, architecture: str) -> Iterator[Build]:
        build = self.builds[graph.name, architecture] = Build(architecture)
        with OnlyMemory():
            yield build


@pytest.mark.parametrize(
    "changes", [{}, {"pilot": "spread"}, {"waveform": "cp"}, {"antennas": 2}], ids=str
)
def test_capture_records_a_build_for_each_architecture(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from foundryc.cuda import kernels
    from otfs_pipeline.receiver.kernels import frame as frames

    here = Build("sm_90")
    for kind in (frames.KernelFrame, frames.KernelWaveform):
        # Without a loader: the GPU at hand's.
        own = lambda *given, kind=kind: kind(*given, *[here.load] * (given[-1] is HOPPER))  # noqa: E731
        monkeypatch.setattr(frames, kind.__name__, own)
    monkeypatch.setattr(kernels, "architecture", lambda: "sm_90")
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *a, device, **k: zeros(*a, **k))
    on_host = lambda _, values: {name: torch.from_numpy(v) for name, v in values.items()}  # noqa: E731
    monkeypatch.setattr(capture, "_constants", on_host)
    recorder = FakeRecorder()
    link = dataclasses.replace(LINK, code_rate=0.0, **changes)  # type: ignore[arg-type]
    capture.record(recorder, link)  # type: ignore[arg-type]
    tables = {
        key: build.table("x", {}, lambda kernel: 0)
        for key, build in (recorder.builds | {("both", "sm_90"): here}).items()
    }
    graphs = ("receive", "receive_waveform")
    assert list(recorder.builds) == [(g, a) for g in graphs for a in ("sm_80", "sm_120")]
    counts = [tables[graph, "sm_80"].nodes for graph in graphs]
    of_frame = len(program.kernels(link)) + len(quality.PARAMETERS)
    assert counts == [of_frame, of_frame + len(front.parameters(link))]
    # The graphs at hand are launched twice, once to warm up.
    assert tables["both", "sm_90"].nodes == 2 * sum(counts)
    for name in graphs:
        llr = recorder.outputs[name]["llr"].data_ptr()
        both = tables[name, "sm_80"], tables["both", "sm_90"]
        assert all(np.any(table.words == llr) for table in both)


@pytest.mark.parametrize(
    ("text", "names"),
    [("sm_90,sm_80, sm_120,sm_80", ("sm_80", "sm_90", "sm_120")), ("sm_87", ("sm_87",))],
)
def test_architectures_are_read_from_the_command(text: str, names: tuple[str, ...]) -> None:
    request = Request.read("otfs", "cuda", False, [], arch=text)
    assert request.architectures == names
    command = list(request.command)
    assert command[command.index("--arch") + 1] == ",".join(names)
    assert request.parts("h100-sxm")["architectures"] == ",".join(names)
    assert "architectures" not in Request.read("otfs", "cuda", False, []).parts("h100-sxm")


@pytest.mark.parametrize(
    ("text", "target"), [("sm_80", "host"), ("90", "cuda"), ("sm_80,", "cuda"), ("sm_75", "cuda")]
)
def test_what_is_no_architecture_is_refused(text: str, target: str) -> None:
    with pytest.raises(UsageError, match=f"--arch {text}: only --target cuda .* for sm_80, sm_86"):
        Request.read("otfs", target, False, [], arch=text)


def test_workloads_without_such_kernels_refuse_architectures() -> None:
    with pytest.raises(UsageError, match="workload 'parse' has kernels for none but the GPU that"):
        Request.read("parse", "cuda", False, ["--model", "x"], arch="sm_80")


def test_builds_are_for_cuda_alone() -> None:
    recorder = Recorder(target="host", workload="x", settings={})
    assert recorder.architectures == ()
    with pytest.raises(UsageError, match="only --target cuda"):
        recorder.build(None, "sm_80")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="only --target cuda"):
        Recorder(target="host", workload="x", settings={}, architectures=["sm_80"])
