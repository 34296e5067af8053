"""Two bundles' graphs word by word: where the first of those lies that differ."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from foundryc.compare.places import GraphPlace
from foundryc.difference import Difference, graph_title
from foundryc.template import GraphTable
from foundryrt.bundle.builds import builds_of
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import Build, GraphEntry
from foundryrt.bundle.tables import TEMPLATE_COLUMNS


def differing_words(a: Bundle, b: Bundle) -> list[Difference]:
    """Of graphs that have the same nodes in both, the first word that differs and how many do."""
    other = dict(_parts(b))
    found = []
    for title, one in _parts(a):
        two = other.get(title)
        if two is None or not _alike(one, two):
            continue
        differ = np.flatnonzero(one.words != two.words)
        if differ.size:
            first = int(differ[0])
            values = int(one.words[first]), int(two.words[first])
            changed = (values[0] ^ values[1]).to_bytes(8, "little")
            byte = next(at for at, value in enumerate(changed) if value)
            place = GraphPlace(one, a.manifest.functions).name(first, byte)
            count = f", first of {differ.size} words" if differ.size > 1 else ""
            found.append(
                {"what": "word", "name": place + count, "a": hex(values[0]), "b": hex(values[1])}
            )
    return found


def _parts(bundle: Bundle) -> Iterator[tuple[str, GraphTable]]:
    """Graphs and their builds, by title and architecture."""
    for graph in bundle.manifest.graphs:
        yield graph_title(graph), _table(bundle, graph, graph)
        for build in builds_of(graph):
            title = f"{graph_title(graph)} for {build.architecture}"
            yield title, _table(bundle, graph, build)


def _table(bundle: Bundle, graph: GraphEntry, part: GraphEntry | Build) -> GraphTable:
    template = bundle.template(part.template)
    columns = {name: np.asarray(getattr(template, name)) for name in TEMPLATE_COLUMNS}
    words = np.array(bundle.member_of(part).apply(template), np.uint64)
    return GraphTable(graph.name, graph.key, columns | {"parameters": words})


def _alike(a: GraphTable, b: GraphTable) -> bool:
    names = ("kind", "parameter_start", "skeleton_start", "skeleton")
    return all(np.array_equal(a.columns[name], b.columns[name]) for name in names)
