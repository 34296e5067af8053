"""A picture of a graph: every node a square, coloured by what it calls, in the order it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from foundryc.page.html import COLOURS, Markup, drawing, join, key
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import NodeKind
from foundryrt.bundle.tables import NO_FUNCTION, TemplateTable

_MOST = 4000
"""Nodes that are drawn; the rest of a larger graph looks like its beginning."""
_COLUMNS, _STEP, _SIDE = 100, 10.0, 7.0


def topology(bundle: Bundle, template: int) -> Markup:
    """The template's nodes by depth, from left to right and then in lines; its edges between them.

    Nodes that may run at the same time stand below each other. What is called most has a colour.
    """
    nodes = bundle.template(template)
    names = _names(bundle, nodes)
    depths = _depths(nodes)
    drawn = min(len(names), _MOST)
    common = [name for name, _ in Counter(names).most_common(COLOURS)]
    places, height = _places(depths[:drawn])
    squares: dict[int, list[str]] = {}
    for (x, y), name in zip(places, names, strict=False):
        colour = common.index(name) if name in common else COLOURS
        squares.setdefault(colour, []).append(f"M{x:g} {y:g}h{_SIDE:g}v{_SIDE:g}h-{_SIDE:g}z")
    counts = Counter(names)
    rest = len(names) - sum(counts[name] for name in common)
    entries = [(n, f"{_short(name)} × {counts[name]}") for n, name in enumerate(common)]
    entries += [(COLOURS, f"others × {rest}")] if rest else []
    picture = drawing(
        _COLUMNS * _STEP,
        height,
        f"{len(names)} nodes",
        _lines(nodes, places),
        *(
            Markup(f'<path class="c{colour}" d="{"".join(shapes)}"/>')
            for colour, shapes in sorted(squares.items())
        ),
    )
    more = f"The first {drawn} of {len(names)} nodes." if drawn < len(names) else ""
    return join([picture, key(entries), more])


def _names(bundle: Bundle, nodes: TemplateTable) -> list[str]:
    functions = bundle.manifest.functions
    kinds = {int(kind): kind.name.lower() for kind in NodeKind}
    return [
        kinds.get(kind, "node") if function == NO_FUNCTION else functions[function].name
        for kind, function in zip(nodes.kind.tolist(), nodes.function.tolist(), strict=True)
    ]


def _short(name: str) -> str:
    return name if len(name) <= 48 else f"{name[:46]}…"


def _depths(nodes: TemplateTable) -> list[int]:
    """Edges before each node on the longest way to it; a graph without edges runs in its order."""
    count = len(nodes.kind)
    if not len(nodes.edge_from):
        return list(range(count))
    following: list[list[int]] = [[] for _ in range(count)]
    waiting = np.bincount(nodes.edge_to, minlength=count).tolist()
    for begin, end in zip(nodes.edge_from.tolist(), nodes.edge_to.tolist(), strict=True):
        following[begin].append(end)
    depths = [0] * count
    ready = [node for node in range(count) if not waiting[node]]
    while ready:
        node = ready.pop()
        for after in following[node]:
            depths[after] = max(depths[after], depths[node] + 1)
            waiting[after] -= 1
            if not waiting[after]:
                ready.append(after)
    return depths


def _places(depths: Sequence[int]) -> tuple[list[tuple[float, float]], float]:
    """Where each node's square begins, and the height of them all."""
    lanes: Counter[int] = Counter()
    placed: list[tuple[int, int]] = []
    for depth in depths:
        placed.append((depth, lanes[depth]))
        lanes[depth] += 1
    lines = max(depths, default=0) // _COLUMNS + 1
    heights = [1] * lines
    for depth, lane in placed:
        heights[depth // _COLUMNS] = max(heights[depth // _COLUMNS], lane + 1)
    tops = np.concatenate([[0.0], np.cumsum(np.array(heights) * _STEP + 4)])
    places = [
        (depth % _COLUMNS * _STEP, float(tops[depth // _COLUMNS]) + lane * _STEP)
        for depth, lane in placed
    ]
    return places, float(tops[-1])


def _lines(nodes: TemplateTable, places: Sequence[tuple[float, float]]) -> Markup:
    """Edges to another lane or over some nodes; those to the next node go without saying."""
    path = []
    for begin, end in zip(nodes.edge_from.tolist(), nodes.edge_to.tolist(), strict=True):
        if max(begin, end) >= len(places):
            continue
        (x, y), (to_x, to_y) = places[begin], places[end]
        if (y == to_y and to_x - x == _STEP) or to_x <= x:
            continue
        middle = _SIDE / 2
        path.append(f"M{x + _SIDE:g} {y + middle:g}L{to_x:g} {to_y + middle:g}")
    return Markup(
        f'<path stroke="var(--faint)" stroke-width=".8" fill="none" d="{"".join(path)}"/>'
    )
