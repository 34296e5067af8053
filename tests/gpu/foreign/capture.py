"""Capture one program, and keep what torch's own replays give.

Arguments: name, folder, and `prove` to compare captures of other processes and run it elsewhere.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from foundryc.elsewhere import Elsewhere, store
from foundryc.recorder import Recorder
from foundryc.write import write_bundle
from foundryrt.bundle.reader import Bundle
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
    with ExitStack() as closing:
        elsewhere = None
        if sys.argv[3:] == ["prove"] and store() is None:
            (folder / f"{name}.others").mkdir()
            command = (sys.executable, "-m", "tests.gpu.foreign.capture", *sys.argv[1:3])
            elsewhere = closing.enter_context(Elsewhere(command, folder / f"{name}.others"))
            elsewhere.begin()
        record(name, folder, elsewhere)


def record(name: str, folder: Path, elsewhere: Elsewhere | None) -> None:
    recorder = Recorder("cuda", "foreign", {}, elsewhere=elsewhere)
    torch.manual_seed(0)
    made = PROGRAMS[name]("cuda")
    inputs = {key: recorder.register(key, value, "input") for key, value in made.inputs.items()}
    with torch.set_grad_enabled(name == "training_step"):
        with recorder.warm_up():
            for _ in range(3):
                made.body(*inputs.values())
        with recorder.graph(name) as graph:
            graph.output("out", made.body(*inputs.values()))
    path = folder / f"{name}.fdy"
    if store() is not None:
        recorder.save(path)
        return
    contents = [[made.fresh(value) for value in made.inputs.values()] for _ in range(RUNS)]
    results = list(replays(graph, inputs, contents))
    again = results if made.goes_on else list(replays(graph, inputs, contents))
    np.savez(
        folder / f"{name}.npz",
        **{f"{i}.{key}": raw(value) for i, values in enumerate(contents)
           for key, value in zip(inputs, values, strict=True)},
        **{f"{i}.out": result for i, result in enumerate(results)},
    )  # fmt: skip
    before = time.perf_counter()
    if elsewhere is None:
        # What the comparison of three captures proves is taken for granted: the replay tells.
        capture = replace(recorder._recording.capture(True), relocatable=True)
        write_bundle(path, capture, "foreign", {}, {})
    else:
        recorder.save(path)
    report = {
        "save_s": time.perf_counter() - before,
        "proved": elsewhere is not None,
        "repeats": all(map(np.array_equal, results, again)),
        "nonzero": any(result.any() for result in results),
    }
    print(json.dumps(report | described(path)))


def described(path: Path) -> dict[str, object]:
    with Bundle.open(path) as bundle:
        manifest = bundle.manifest
        return {
            "nodes": manifest.templates[0].nodes,
            "relocations": len(bundle.template(0).relocation_word),
            "random": manifest.graphs[0].random,
            "variables": [v.name for v in manifest.variables if v.relocations],
            "foreign": [
                {"size": region.size, "owner": region.owner, "pointers": len(region.relocations)}
                for region in manifest.regions if region.owner
            ],
        }  # fmt: skip


if __name__ == "__main__":
    main()
