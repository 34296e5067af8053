"""The receiver's graph, captured and noted, and noted for GPUs without clusters. Argument: folder.

Writes builds.fdy, whose build for sm_80 has this GPU's binaries of those kernels, so that it can be
run here, and prints how what was noted differs from what was captured.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch

from foundryc import Recorder
from foundryc.cuda.graph import RecordedGraph
from foundryc.cuda.kernels import architecture
from otfs_pipeline.receiver.kernels.frame import KernelFrame, decoder_program
from otfs_pipeline.receiver.kernels.platforms import platform
from otfs_pipeline.settings import Settings
from otfs_pipeline.signature import signature

LINK = Settings(grid="1024x32", code_rate=0.5, iterations=12)
folder = Path(sys.argv[1])
with torch.no_grad(), Recorder("cuda", workload="otfs", settings=asdict(LINK)) as recorder:
    zeros = torch.zeros(LINK.q, dtype=torch.complex64, device="cuda")
    samples = recorder.register("samples", zeros, role="input")
    program = decoder_program(LINK)
    assert program is not None
    constants = {
        name: recorder.register(name, torch.from_numpy(value).cuda(), role="constant")
        for name, value in program.constants().items()
    }
    here = platform(architecture())
    receive = KernelFrame(LINK, constants, here)
    with recorder.warm_up():
        receive(samples)
    with recorder.graph("receive") as graph:
        results = receive(samples)
        for name in signature(LINK).outputs:
            graph.output(name, results[name])
    with recorder.build(graph, here.architecture) as build:
        KernelFrame(LINK, constants, here, build.load)(samples, results)
    recorded = cast(RecordedGraph, graph)
    assert recorded.table is not None
    captured, noted = recorded.table.columns, recorded.table.builds[here.architecture].columns
    differ = [
        name
        for name in captured
        if name not in ("function", "parameters")
        and not np.array_equal(captured[name], noted[name])
    ]
    starts = captured["parameter_start"]
    heads = np.concatenate([np.arange(start, start + 4) for start in starts[:-1]])
    words = captured["parameters"], noted["parameters"]
    functions = recorder._recording.binaries.functions  # type: ignore[attr-defined]
    names = [[functions[f].name for f in columns["function"]] for columns in (captured, noted)]
    shared = [
        [functions[f].max_dynamic_shared for f in columns["function"]]
        for columns in (captured, noted)
    ]
    recorded.table = replace(recorded.table, builds={})
    without = replace(here, clusters=False)
    with recorder.build(graph, "sm_80") as build:
        KernelFrame(LINK, constants, without, build.load)(samples, results)
    recorder._architectures = ("sm_80",)
    recorder.save(folder / "builds.fdy")
print(
    json.dumps(
        {
            "differ": differ,
            "launches": bool((words[0][heads] == words[1][heads]).all()),
            "names": names[0] == names[1],
            "shared": shared[0] == shared[1],
        }
    )
)
