"""What captures of one workload have in common: everything but words, bytes and addresses."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import zip_longest

import numpy as np

from foundryc.capture import Capture
from foundryc.compare.places import node_title
from foundryc.difference import graph_title
from foundryc.template import EDGE_COLUMNS, GraphTable
from foundryrt.errors import FoundryError
from foundryrt.printable import quoted

_FACTS = ("target", "requirements", "producer", "provenance", "digest_kernel")
_STARTS = {"parameter_start": "parameters", "skeleton_start": "skeleton"}


def check_alike(capture: Capture, other: Capture, which: str) -> None:
    """FoundryError naming the first thing that `other`, made `which`, has otherwise."""
    for difference in differences(capture, other):
        raise FoundryError(
            f"two processes do not capture the same, the second {which}: {difference}; make the"
            " workload repeatable, such as by seeding torch"
        )


def differences(a: Capture, b: Capture) -> Iterator[str]:
    """Each difference in words; what comes later relies on what came before being equal."""
    for name in _FACTS:
        one, two = getattr(a, name), getattr(b, name)
        if one != two:
            yield f"{name} is {quoted(one)} and {quoted(two)}"
    yield from _lists("region", *(_regions(c) for c in (a, b)))
    for index, pair in enumerate(zip_longest(a.kernels, b.kernels)):
        if pair[0] != pair[1]:
            one, two = (_binary(c, index) for c in (a, b))
            yield f"kernel binary {index} is {one} and {two}"
    yield from _lists("function", *(map(str, c.functions) for c in (a, b)))
    yield from _lists("tensor", *(map(str, c.tensors) for c in (a, b)))
    yield from _lists("variable", *(_variables(c) for c in (a, b)))
    yield from _lists("tensor with a recipe", *(map(str, sorted(c.slices)) for c in (a, b)))
    for index, slices in a.slices.items():
        if list(slices) != list(b.slices[index]):
            yield f"tensor {quoted(a.tensors[index].name)} is made of other weights"
    yield from _lists("graph", *(map(_title, c.graphs) for c in (a, b)))
    for one, two in zip(a.graphs, b.graphs, strict=True):
        yield from _topology(one, two, a)
        for name, build in one.builds.items():
            yield from _topology(build, two.builds[name], a)


def _lists(what: str, a: Iterable[str], b: Iterable[str]) -> Iterator[str]:
    for index, (one, two) in enumerate(zip_longest(a, b, fillvalue="missing")):
        if one != two:
            yield f"{what} {index} is {quoted(one)} and {quoted(two)}"


def _title(graph: GraphTable) -> str:
    return " for ".join([graph_title(graph), *graph.builds])


def _regions(capture: Capture) -> Iterator[str]:
    for image in capture.regions:
        owner = f" of {image.owner}" if image.owner else ""
        yield f"{image.name}{owner}, {image.size} bytes"


def _variables(capture: Capture) -> Iterator[str]:
    for variable in capture.variables:
        yield f"{variable.name} of binary {variable.kernel}, {len(variable.data)} bytes"


def _binary(capture: Capture, index: int) -> str:
    """Its digest, and a function that is in use: it says whose binary that is."""
    if index >= len(capture.kernels):
        return "missing"
    names = [function.name for function in capture.functions if function.kernel == index]
    owner = quoted(names[0]) if names else "no function in use"
    return f"{hashlib.sha256(capture.kernels[index]).hexdigest()} with {owner}"


def _topology(a: GraphTable, b: GraphTable, capture: Capture) -> Iterator[str]:
    """Columns that are not equal, said of the first node where they differ."""
    if a.nodes != b.nodes:
        yield f"graph {graph_title(a)} has {a.nodes} nodes and {b.nodes}"
        return
    for name in ("kind", "function", *_STARTS):
        unequal = np.flatnonzero(a.columns[name] != b.columns[name])
        if unequal.size:
            node = int(unequal[0]) - (name in _STARTS)
            yield f"{node_title(a, node, capture.functions)}: its {_STARTS.get(name, name)} differ"
    for at in np.flatnonzero(a.columns["skeleton"] != b.columns["skeleton"])[:1]:
        node = int(np.searchsorted(a.columns["skeleton_start"], at, side="right")) - 1
        yield f"{node_title(a, node, capture.functions)}: its launch attributes differ"
    if any(not np.array_equal(a.columns[name], b.columns[name]) for name in EDGE_COLUMNS):
        yield f"graph {graph_title(a)} has other edges"
