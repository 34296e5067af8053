"""A whole workload: for each query the nearest of many stored vectors (see README.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from foundryrt.options import option

if TYPE_CHECKING:
    from foundryc import Recorder
    from foundryrt import Session


@dataclass(frozen=True)
class Settings:
    """Options of `foundryc capture --workload nearest`."""

    vectors: str = option("", "A .npy file, float32 [count, width]; random ones without it.")
    queries: int = option(8, "Queries a launch.")
    best: int = option(3, "How many neighbours of each.")


def record(recorder: Recorder, settings: Settings) -> None:
    """Graph `search`: `queries` [queries, width] to `index` and `score` [queries, best]."""
    import torch

    stored = np.random.default_rng(0).standard_normal((10_000, 64), np.float32)
    if settings.vectors:
        stored = np.load(settings.vectors)
    unit = torch.nn.functional.normalize(torch.from_numpy(stored))
    vectors = recorder.register("vectors", unit, role="weight")
    queries = recorder.register("queries", unit[: settings.queries].clone(), role="input")
    with recorder.warm_up():
        (queries @ vectors.T).topk(settings.best)
    with recorder.graph("search") as graph:
        found = (queries @ vectors.T).topk(settings.best)
        graph.output("score", found.values)
        graph.output("index", found.indices)


@dataclass(frozen=True)
class Options:
    """Options of `foundryrt run`."""

    noise: float = option(0.05, "Queries are stored vectors with so much noise.")


def run(session: Session, options: Options, json: bool) -> dict[str, Any]:
    """Search for noisy copies of the first vectors; with --json the command prints the result."""
    queries = session.read("queries")  # what they were at capture
    noise = np.random.default_rng(1).standard_normal(queries.shape)
    session.write("queries", (queries + options.noise * noise).astype(np.float32))
    graph = session.graph("search")
    graph.launch()
    result = {"index": graph.read("index").tolist(), "score": graph.read("score").tolist()}
    if not json:
        for query, (index, score) in enumerate(zip(result["index"], result["score"], strict=True)):
            print(
                query, "->", ", ".join(f"{i} ({s:.2f})" for i, s in zip(index, score, strict=True))
            )
    return result
