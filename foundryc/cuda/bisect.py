"""The node of a graph that gives something else at another place, found by bisection.

From the memory of the capture's start, torch's own graph here and the bundle's there run their
first n nodes alone. Where memory is the same after n nodes and another one after n + 1, node n has
made another result of the same memory. What memory holds is compared word by word: an address may
be another one, if it lies as far into the same region.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from foundryc.capture import Capture
from foundryc.compare.places import RegionPlace, node_title, node_work
from foundryc.compare.regions import Index, Mask
from foundryc.cuda.graph import RecordedGraph
from foundryc.cuda.proof import run_there, what_failed
from foundryc.cuda.rerun import Rerun, only, read
from foundryc.template import Words
from foundryrt.cuda.prefix import blocks, digests
from foundryrt.errors import FoundryError

Unlike = tuple[int, int, int, int]
"""Region and number of a word in it, what it is here and what it is there."""


@dataclass(eq=False)
class _Part:
    """Blocks of a region: their numbers, their words [n, BLOCK / 8], and which of those differ."""

    region: int
    numbers: Index
    here: Words
    there: Words
    unlike: Mask

    def words(self) -> Iterator[Unlike]:
        """Those that differ."""
        for block, word in np.argwhere(self.unlike).tolist():
            number = int(self.numbers[block]) * self.here.shape[1] + word
            yield self.region, number, int(self.here[block, word]), int(self.there[block, word])


@dataclass(frozen=True)
class Found:
    """`title` names the node as messages of a comparison do; empty where none was found."""

    text: str
    title: str = ""


def first_to_differ(
    path: Path, capture: Capture, number: int, graph: RecordedGraph, progress: Callable[[str], None]
) -> Found:
    """Which node of graph `number` gives something else when the bundle `path` runs elsewhere.

    `progress` is told what is left to search. Afterwards memory here is as the last run left it.
    """
    try:
        with TemporaryDirectory() as folder:
            return _search(_Sides(path, capture, number, graph, Path(folder)), progress)
    except (FoundryError, OSError) as error:
        return Found(f"which node it is was not found: {error}")


def _search(sides: _Sides, progress: Callable[[str], None]) -> Found:
    progress("looking for the node that differs")
    first = sides.after(0)
    if isinstance(first, str):
        return Found(f"it {first} without any of its nodes, too")
    sides.known = first  # noise, which was set to zero in what memory begins with
    low, high = 0, sides.nodes
    last = sides.after(high)
    if not last:
        return Found(
            "none of its nodes makes something else: what the output holds is an address, was taken"
            " for noise, or does not repeat itself"
        )
    while high - low > 1:
        progress(f"looking for the node that differs, among {high - low}")
        middle = (low + high) // 2
        if found := sides.after(middle):
            high, last = middle, found
        else:
            low = middle
    return sides.describe(high - 1, last)


class _Sides:
    """This process, which captured the graph, and one without torch for each run of the bundle."""

    def __init__(
        self, path: Path, capture: Capture, number: int, graph: RecordedGraph, folder: Path
    ) -> None:
        if graph.torch_graph is None:
            raise FoundryError("other code captured it")
        self._path, self._capture, self._number = path, capture, number
        self._graph, self._torch_graph = graph, graph.torch_graph
        self._rerun = Rerun(capture.regions, capture.random)
        self._wanted, self._found = folder / "wanted.npz", folder / "found.npz"
        self.nodes = capture.graphs[number].nodes
        self.known: set[Unlike] = set()
        """What differs before the first node already."""

    def after(self, nodes: int) -> set[Unlike] | str:
        """What differs after the first nodes, none of it known; or how the bundle failed there."""
        self._run(nodes)
        regions = enumerate(self._capture.regions)
        compared = {str(i): r for i, r in regions if r.size and r.name != "weights"}
        wanted: dict[str, Any] = {
            name: digests(read, own.base, own.memory) for name, own in compared.items()
        }
        np.savez(self._wanted, **wanted)
        done = run_there(
            "foundryrt.cuda.prefix", self._path, self._number, nodes, self._wanted, self._found
        )
        if done.returncode:
            return what_failed(done)
        with np.load(self._found) as found:
            parts = [self._part(int(name), found) for name in compared]
        for _ in range(2):  # What is another one in each run here is nothing to compare.
            self._run(nodes)
            for part in parts:
                part.unlike &= self._blocks(part.region, part.numbers) == part.here
        return {word for part in parts for word in part.words()} - self.known

    def describe(self, node: int, found: set[Unlike] | str) -> Found:
        """The node, and where it makes a difference."""
        table, functions = self._capture.graphs[self._number], self._capture.functions
        name = f"node {node} of {self.nodes}, {node_work(table, node, functions)}"
        title = node_title(table, node, functions)
        if isinstance(found, str):
            return Found(f"it fails with {name}, and not without it", title)
        region, word, here, there = min(found)
        where = RegionPlace(self._capture, region).name(word, 0)
        return Found(
            f"of the same memory, {name}, makes something else: {where} is {here:#x} here and"
            f" {there:#x} there",
            title,
        )

    def _run(self, nodes: int) -> None:
        with only(self._torch_graph, nodes):
            self._rerun.run(self._graph)

    def _blocks(self, region: int, numbers: Index) -> Words:
        own = self._capture.regions[region]
        return blocks(read, own.base, own.memory, numbers)

    def _part(self, region: int, found: Mapping[str, npt.NDArray[np.uint64]]) -> _Part:
        """The blocks of a region that were found to differ, and in which words they do."""
        numbers = found[f"blocks {region}"].astype(np.int64)
        here, there = self._blocks(region, numbers), found[f"words {region}"]
        unlike = here != there
        for own, base in zip(self._capture.regions, found["bases"], strict=True):
            within = here - np.uint64(own.base)
            unlike &= (within > np.uint64(own.size)) | (there - base != within)
        return _Part(region, numbers, here, there, unlike)
