"""Capture one program, and keep what torch's own replays give. Arguments: name, folder."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from foundryc.cuda.recording import CudaRecording
from foundryc.write import write_bundle
from tests.gpu.foreign.programs import PROGRAMS

RUNS, SEED = 3, 7


def raw(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).cpu().numpy()


def replays(graph, inputs: dict[str, torch.Tensor], contents: list[list[torch.Tensor]]):
    torch.manual_seed(SEED)
    for values in contents:
        for tensor, value in zip(inputs.values(), values, strict=True):
            tensor.copy_(value)
        graph.replay()
        torch.cuda.synchronize()
        yield raw(graph.outputs[0].tensor)


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    recording = CudaRecording()
    torch.manual_seed(0)
    made = PROGRAMS[name]("cuda")
    inputs = {key: recording.register(key, value, "input") for key, value in made.inputs.items()}
    with torch.set_grad_enabled(name == "training_step"):
        with recording.warm_up():
            for _ in range(3):
                made.body(*inputs.values())
        with recording.graph(name) as graph:
            graph.output("out", made.body(*inputs.values()))
    # What the comparison of three captures proves is taken for granted here: the replay tells.
    capture = replace(recording.capture(True), relocatable=True)
    write_bundle(folder / f"{name}.fdy", capture, "foreign", {}, {})
    contents = [[made.fresh(value) for value in made.inputs.values()] for _ in range(RUNS)]
    results = list(replays(graph, inputs, contents))
    again = results if made.goes_on else list(replays(graph, inputs, contents))
    np.savez(
        folder / f"{name}.npz",
        **{f"{i}.{key}": raw(value) for i, values in enumerate(contents)
           for key, value in zip(inputs, values, strict=True)},
        **{f"{i}.out": result for i, result in enumerate(results)},
    )  # fmt: skip
    columns = capture.graphs[0].columns
    report = {
        "nodes": capture.graphs[0].nodes,
        "relocations": int(columns["relocation_word"].size),
        "random": capture.graphs[0].random,
        "variables": [v.name for v in capture.variables if v.relocations],
        "foreign": [
            {"size": region.size, "owner": region.owner, "pointers": len(region.relocations)}
            for region in capture.regions if region.owner
        ],
        "repeats": all(map(np.array_equal, results, again)),
        "nonzero": any(result.any() for result in results),
    }  # fmt: skip
    print(json.dumps(report))


if __name__ == "__main__":
    main()
