"""Weights of several ranks on the CPU: each takes all digests, or they share them out.

Layers of a decoder with random weights, whose queries, keys, values and gates are divided by rows,
both outputs by columns. Ranks are processes that load at the same time; the file is in the page
cache.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from safetensors.numpy import save_file

from benchmarks.device import cpu
from benchmarks.report import RESULTS, Output, say, today, write_results
from foundryc.weights import TensorFile, WeightSlice, build_weights, whole
from foundryrt.bundle.schema import Manifest, Ranks, Region, Requirements, Tensor, Workload
from foundryrt.convert import storage_dtype
from foundryrt.host.weights import load
from foundryrt.sharing import digested_by
from foundryrt.weight_files import file_states

_HIDDEN, _WIDTH, _HEADS = 2048, 8192, 3072
_LAYER = {
    "qkv": (_HEADS, _HIDDEN, 0), "o": (_HIDDEN, _HIDDEN, 1), "gate_up": (2 * _WIDTH, _HIDDEN, 0),
    "down": (_HIDDEN, _WIDTH, 1), "norm": (1, _HIDDEN, None),
}  # fmt: skip
"""Rows, columns, and which of them ranks divide."""


def run(
    ranks: Annotated[int, typer.Option(min=2, max=8)] = 4,
    layers: Annotated[int, typer.Option(min=1)] = 4,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    output: Output = RESULTS / "rank_weights.json",
) -> None:
    """Measure, and write the medians."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = _manifest(Path(folder) / "w.safetensors", ranks, layers)
        found: dict[str, list[dict[str, Any]]] = {"each": [], "shared": []}
        for index in range(repeats + 1):
            say(f"{index} of {repeats}")
            for way, runs in found.items():
                runs.append(_together(manifest, ranks, way == "shared"))
    result: dict[str, Any] = {
        "device": cpu(), "date": today(), "ranks": ranks, "layers": layers, "repeats": repeats,
        "bytes": sum(source.length for source in manifest.weights.sources),
    }  # fmt: skip
    for way, runs in found.items():
        seconds = [each["seconds"] for each in runs[1:]]
        result[way] = {
            "read_a_rank": runs[-1]["read"],
            "digested_a_rank": runs[-1]["digested"],
            "seconds": statistics.median(seconds),
            "spread": [min(seconds), max(seconds)],
        }
    write_results(output, result)


def _manifest(path: Path, ranks: int, layers: int) -> Manifest:
    random = np.random.default_rng(0)
    shapes = {f"{layer}.{name}": shape for layer in range(layers) for name, shape in _LAYER.items()}
    save_file(
        {name: random.integers(0, 1 << 16, shape[:2], np.uint16) for name, shape in shapes.items()},
        path,
    )
    stored, tensors, slices = TensorFile(path).tensors, [], []
    for index, (name, (rows, columns, axis)) in enumerate(shapes.items()):
        shape = (rows // ranks if axis == 0 else rows, columns // ranks if axis == 1 else columns)
        tensors.append(
            Tensor(name=name, region=0, offset=0, dtype="uint16", shape=shape,
                   strides=(shape[1], 1), role="weight")
        )  # fmt: skip
        own = [
            WeightSlice(
                stored[name], *shape, source_row=rank * shape[0] if axis == 0 else 0,
                source_column=rank * shape[1] if axis == 1 else 0, rank=rank,
            )
            for rank in range(ranks)
        ]  # fmt: skip
        slices.append((index, whole(stored[name]) if axis is None else own))
    return Manifest(
        format_version=1, target="host", workload=Workload(name="t", settings={}),
        requirements=Requirements(memory=0), producer={}, provenance={},
        regions=(Region(name="weights", base=0, size=0),), tensors=tuple(tensors),
        weights=build_weights(slices), ranks=Ranks(world=ranks, words=0),
    )  # fmt: skip


def _together(manifest: Manifest, ranks: int, shared: bool) -> dict[str, Any]:
    """Bytes of the rank that has the most of them, seconds until all are done."""
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(ranks), context.Queue()
    processes = [
        context.Process(target=_load, args=(manifest, rank, shared, start, results))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return {name: max(each[name] for each in found) for name in found[0]}


def _load(
    manifest: Manifest, rank: int, shared: bool, start: Barrier, results: Queue[dict[str, Any]]
) -> None:
    targets = [np.zeros(each.shape, storage_dtype(each.dtype)) for each in manifest.tensors]
    for target in targets:
        target[...] = 1  # has memory
    read: list[int] = []
    own = digested_by(manifest, rank)
    needed = {
        copy.source
        for recipe in manifest.weights.recipes if recipe.rank in (-1, rank)
        for copy in recipe.copies
    }  # fmt: skip
    start.wait()
    began = time.perf_counter()
    load(
        manifest, targets.__getitem__, None, True, read.append, rank, own if shared else None,
        file_states(manifest, None) if shared else None,
    )  # fmt: skip
    sources = manifest.weights.sources
    results.put({
        "seconds": time.perf_counter() - began,
        "read": sum(read),
        "digested": sum(sources[index].length for index in (own if shared else needed)),
    })  # fmt: skip
