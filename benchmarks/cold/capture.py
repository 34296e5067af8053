"""Capture through the Recorder; digests of torch's own results. Arguments: model, mode, folder."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path

import torch

from benchmarks.cold.model import STEPS, config, decode_passes, plan, write_weights
from foundryc.recorder import Recorder
from foundryc.weights import TensorFile
from parse_runtime.passes import load_parameters
from parse_runtime.weights.parameters import SAFETENSORS, parameters


def main(name: str, mode: str, folder: Path) -> None:
    began = time.time()
    recorder = Recorder("cuda", "cold", {"model": name}, compile=mode == "compile")
    file = folder / f"{name}.safetensors"
    if not file.exists():
        write_weights(config(name), file)
    recipes = parameters(config(name), SAFETENSORS, TensorFile(file).tensors)
    weights = load_parameters("target", recipes, "bfloat16", recorder.register)
    loaded = time.time()
    inputs, cache = {}, []

    def register(label, tensor, role):
        placed = recorder.register(label, tensor, role=role)
        inputs[label] = placed
        if role == "state":
            cache.append(placed)
        return placed

    outputs, graphs = {}, {}
    with torch.inference_mode():
        passes = decode_passes(name, weights, register, recorder.compiled)
        with recorder.warm_up():
            for _, run in passes:
                run()
        warm = time.time()
        for batch, run in passes:
            with recorder.graph("decode", batch=batch) as graph:
                outputs[batch] = run()
                for label, tensor in outputs[batch].items():
                    graph.output(label, tensor)
            graphs[batch] = graph
        captured = time.time()
        runs = []
        for _ in range(2):
            digests = {}
            for tensor in cache:
                tensor.zero_()
            for batch, graph in graphs.items():
                for step in range(STEPS):
                    inputs[f"target.decode.{batch}.plan"].copy_(torch.from_numpy(plan(batch, step)))
                    graph.replay()
                    logits = outputs[batch]["logits"].cpu().numpy()
                    digests[f"{batch}.{step}"] = hashlib.sha256(logits.data).hexdigest()
            runs.append(digests)
        for tensor in cache:
            tensor.zero_()
    path = folder / f"{name}.{mode}.fdy"
    checked = time.time()
    recorder.save(path)
    (folder / f"{name}.{mode}.json").write_text(json.dumps(runs[0]))
    print(
        json.dumps(
            {
                "torch_repeats_itself": runs[0] == runs[1],
                "capture_seconds": {
                    "weights": loaded - began,
                    "warm_up": warm - loaded,
                    "graphs": captured - warm,
                    "save": time.time() - checked,
                },
            }
        )
    )


main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
