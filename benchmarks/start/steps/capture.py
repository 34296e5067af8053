"""Capture through the Recorder; digests of torch's own results. Arguments: model, mode, folder.

`prove` compares captures of two more processes, as `foundryc capture` does.
MODEL.MODE.captured.json, written last, is the report.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.start.steps.model import (
    GEOMETRY,
    STEPS,
    decode_passes,
    digest,
    plan,
    random_weights,
    write_weights,
)
from foundryc.elsewhere import Elsewhere, store
from foundryc.recorder import Recorder
from foundryc.weights import TensorFile, whole


def main(name: str, mode: str, folder: Path, elsewhere: Elsewhere | None = None) -> None:
    began = time.time()
    settings = {"model": name}
    recorder = Recorder("cuda", "cold", settings, mode == "compile", elsewhere=elsewhere)
    file = folder / f"{name}.safetensors"
    if not file.exists():
        write_weights(GEOMETRY[name], file)
    stored = TensorFile(file).tensors
    weights = {
        key: recorder.register(key, values, role="weight", slices=whole(stored[key]))
        for key, values in random_weights(GEOMETRY[name])
    }
    loaded = time.time()
    inputs = {}

    def register(label, tensor, role):
        inputs[label] = recorder.register(label, tensor, role=role)
        return inputs[label]

    outputs, graphs = {}, {}
    with torch.inference_mode():
        passes, cache = decode_passes(name, weights, register, recorder.compiled)
        with recorder.warm_up():
            for _, run in passes:
                run()
        warm = time.time()
        for batch, run in passes:
            with recorder.graph("decode", batch=batch) as graph:
                outputs[batch] = run()
                graph.output("logits", outputs[batch])
            graphs[batch] = graph
        captured = time.time()
        runs = []
        for _ in range(0 if store() else 2):
            digests = {}
            cache.zero_()
            for batch, graph in graphs.items():
                for step in range(STEPS):
                    inputs[f"plan.{batch}"].copy_(torch.tensor(plan(batch, step)).view(2, batch))
                    graph.replay()
                    logits = outputs[batch].cpu().numpy()
                    digests[f"{batch}.{step}"] = digest(logits.tobytes())
            runs.append(digests)
        cache.zero_()
    path = folder / f"{name}.{mode}.fdy"
    checked = time.time()
    recorder.save(path)
    if store():
        return
    (folder / f"{name}.{mode}.json").write_text(json.dumps(runs[0]))
    report = {
        "torch_repeats_itself": runs[0] == runs[1],
        "capture_seconds": {
            "weights": loaded - began,
            "warm_up": warm - loaded,
            "graphs": captured - warm,
            "save": time.time() - checked,
        },
    }
    (folder / f"{name}.{mode}.captured.json").write_text(json.dumps(report))


arguments = sys.argv[1], sys.argv[2], Path(sys.argv[3])
if "prove" in sys.argv and not store():
    with (
        TemporaryDirectory(dir=arguments[2]) as others,
        Elsewhere([sys.executable, *sys.argv], Path(others)) as elsewhere,
    ):
        elsewhere.begin()
        main(*arguments, elsewhere)
else:
    main(*arguments)
