"""Graphs run again in the process that captured them, from the memory of the capture's start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from foundryc.capture import RegionImage
from foundryc.cuda import driver
from foundryc.cuda.graph import RecordedGraph
from foundryc.packed import Run, runs
from foundryrt.bundle.schema import Random
from foundryrt.errors import FoundryError

_STEP = 64 << 20
"""Bytes of device memory that are looked at at a time."""


class Rerun:
    """Every run begins with what `regions` held at first; weights, which graphs only read, stay."""

    def __init__(self, regions: Iterable[RegionImage], random: Random | None) -> None:
        self._images = [(i, runs(i.initial)) for i in regions if i.name != "weights"]
        self._random = random

    def run(self, graph: RecordedGraph) -> None:
        """Replay the graph, and wait for it."""
        for image, held in self._images:
            _restore(image, held)
        if self._random is not None:
            torch.cuda.manual_seed(self._random.initial_seed)
        graph.replay()
        torch.cuda.synchronize()

    def written(self) -> set[str]:
        """Names of the foreign regions that do not hold what they held at first."""
        return {image.name for image, held in self._images if image.owner and _changed(image, held)}


@contextmanager
def only(graph: torch.cuda.CUDAGraph, nodes: int) -> Iterator[None]:
    """In the block a replay, or launch of the exec, does the first `nodes` nodes alone.

    The graph must have been instantiated. FoundryError where a part of it cannot be left out.
    """
    executable = graph.raw_cuda_graph_exec()
    left_out = _work(graph.raw_cuda_graph(), nodes)
    for node in left_out:
        driver.call("cuGraphNodeSetEnabled", executable, node, 0)
    try:
        yield
    finally:
        for node in left_out:
            driver.call("cuGraphNodeSetEnabled", executable, node, 1)


def read(address: int, size: int) -> bytearray:
    """A copy of device memory."""
    data = bytearray(size)
    driver.call("cuMemcpyDtoH", data, address, size)
    return data


def _work(graph: int, first: int) -> list[Any]:
    """The nodes of a CUgraph, from number `first` on, that do something."""
    _, count = driver.call("cuGraphGetNodes", graph)
    nodes, _ = driver.call("cuGraphGetNodes", graph, count)
    kinds = [driver.call("cuGraphNodeGetType", node) for node in nodes[:count]]
    known = driver.bindings().CUgraphNodeType
    if known.CU_GRAPH_NODE_TYPE_GRAPH in kinds:
        raise FoundryError(
            "a graph that holds another graph cannot be run in part, to see what random numbers it"
            " takes or which of its nodes differs; capture without graphs in graphs"
        )
    empty = known.CU_GRAPH_NODE_TYPE_EMPTY
    every = list(zip(nodes, kinds, strict=False))
    return [node for node, kind in every[first:] if kind != empty]


def _restore(image: RegionImage, held: Sequence[Run]) -> None:
    end = 0
    for start, data in [*held, (image.memory, b"")]:
        if start > end:
            driver.call("cuMemsetD8", image.base + end, 0, start - end, about=image.name)
        if data:
            driver.call("cuMemcpyHtoD", image.base + start, data, len(data), about=image.name)
        end = start + len(data)


def _changed(image: RegionImage, held: Sequence[Run]) -> bool:
    """Whether it holds something else; looked at in steps, as it may be most of the device's."""
    for start in range(0, image.size, _STEP):
        expected = bytearray(min(_STEP, image.size - start))
        for at, data in held:
            first, last = max(at, start), min(at + len(data), start + len(expected))
            if first < last:
                expected[first - start : last - start] = data[first - at : last - at]
        if read(image.base + start, len(expected)) != expected:
            return True
    return False
