"""A workload that is no installed package: doubles `width` numbers."""

from __future__ import annotations

from dataclasses import dataclass

from foundryrt.options import option


@dataclass(frozen=True)
class Settings:
    width: int = option(8, "numbers")


def record(recorder: object, settings: Settings) -> None:
    import torch

    x = recorder.register("x", torch.ones(settings.width), role="input")
    with recorder.graph("double") as graph:
        graph.output("y", x * 2)


@dataclass(frozen=True)
class Options:
    value: float = option(1.0, "each of the numbers")


def run(session: object, options: Options, json: bool) -> dict[str, float]:
    import numpy as np

    session.write("x", np.full(session.settings["width"], options.value, np.float32))
    graph = session.graph("double")
    graph.launch()
    result = {"sum": float(graph.read("y").sum())}
    if not json:
        print(result["sum"])
    return result
